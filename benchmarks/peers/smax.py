"""JaxMARL's SMAX at random play, round by round; runs in an environment of its own.

    python -I smax.py MAP THREADS

Reads requests from standard input, a JSON object a line, and answers each with another:
`{"parallel": 64, "seconds": 1.0}` gives `{"steps_per_second": ..., "startup_seconds": ...}`.
A batch size is traced and compiled when it is first asked for: that is `startup_seconds`, the
same in later answers, and is not in `steps_per_second`.

The settings are those of JaxMARL's own QMIX baseline. A step is its `step`: eight world steps, the
enemy's policy, rewards, every agent's observation, the world state, and auto-reset.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

STEPS_PER_CALL = 4096
"""Of all battles together: enough that calling is no part of the cost, at most some 0.5 s."""


def use_cores(n: int) -> None:
    """XLA has as many threads as the process may use cores; to be called before it starts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n])


def answers_alone() -> TextIO:
    """Standard output, on which what JaxMARL prints goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


class Play:
    """Battles side by side, each replaced when it ends, all steps of a call in one `scan`."""

    def __init__(self, map_name: str, parallel: int) -> None:
        import jax
        from jaxmarl import make
        from jaxmarl.environments.smax import map_name_to_scenario

        started = time.perf_counter()
        env = make(
            "HeuristicEnemySMAX",
            scenario=map_name_to_scenario(map_name),
            see_enemy_actions=True,
            walls_cause_death=True,
            attack_mode="closest",
        )
        length = max(4, STEPS_PER_CALL // parallel)
        key, reset_key = jax.random.split(jax.random.PRNGKey(0))
        observations, states = jax.jit(jax.vmap(env.reset))(jax.random.split(reset_key, parallel))
        self._carry = (key, observations, states)
        self._call = jax.jit(play(env, parallel, length)).lower(self._carry).compile()
        self._wait: Callable[[Any], Any] = jax.block_until_ready
        self._steps_per_call = length * parallel
        self.startup_seconds = time.perf_counter() - started
        self._advance()

    def _advance(self) -> None:
        self._carry, totals = self._call(self._carry)
        self._wait(totals)

    def steps_per_second(self, seconds: float) -> float:
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            self._advance()
            steps += self._steps_per_call
        return steps / (time.perf_counter() - started)


def play(env: Any, parallel: int, length: int) -> Callable[[Any], Any]:
    """A function from where the battles stand to where they stand `length` steps on."""
    import jax
    import jax.numpy as jnp

    def one_step(key: Any, state: Any) -> Any:
        action_key, step_key = jax.random.split(key)
        masks = env.get_avail_actions(state)
        avail_actions = jnp.stack([masks[agent] for agent in env.agents])
        noise = jax.random.uniform(action_key, avail_actions.shape)
        actions = jnp.where(avail_actions, noise, -1.0).argmax(1)
        return env.step(step_key, state, dict(zip(env.agents, actions, strict=True)))

    def all_step(carry: Any, _: None) -> Any:
        # The observations are carried, so that the compiler cannot leave them out.
        key, _, states = carry
        key, step_key = jax.random.split(key)
        keys = jax.random.split(step_key, parallel)
        observations, states, rewards, dones, _ = jax.vmap(one_step)(keys, states)
        totals = rewards[env.agents[0]].sum(), dones["__all__"].sum()
        return (key, observations, states), totals

    return lambda carry: jax.lax.scan(all_step, carry, None, length=length)


def main(map_name: str, threads: int) -> None:
    use_cores(threads)
    answers = answers_alone()
    plays: dict[int, Play] = {}
    for line in sys.stdin:
        request = json.loads(line)
        parallel = request["parallel"]
        if parallel not in plays:
            plays[parallel] = Play(map_name, parallel)
        answer = {
            "steps_per_second": plays[parallel].steps_per_second(request["seconds"]),
            "startup_seconds": plays[parallel].startup_seconds,
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
