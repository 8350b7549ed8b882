"""JaxMARL's SMAX, battles side by side behind a pipe; runs in an environment of its own.

    python -I smax_battles.py DESCRIPTOR MAP N_BATTLES SEED

Takes `("reset", mask, numbers)` and `("step", actions)` through a `multiprocessing` connection,
arrays as bytes, and answers each with what there is to see. The settings are those of JaxMARL's own
QMIX baseline, without its auto-reset. A battle is a function of the seed, its number and what is
done in it.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


class Battles:
    def __init__(self, map_name: str, n_battles: int, seed: int) -> None:
        import jax
        import jax.numpy as jnp
        from jaxmarl import make
        from jaxmarl.environments.smax import map_name_to_scenario

        self._env = env = make(
            "HeuristicEnemySMAX",
            scenario=map_name_to_scenario(map_name),
            see_enemy_actions=True,
            walls_cause_death=True,
            attack_mode="closest",
        )
        self._n = n_battles
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.PRNGKey(seed), number))

        def reset(mask: Any, numbers: Any, now: Any) -> Any:
            fresh = keys(numbers)
            begun = (fresh, jax.vmap(env.reset)(fresh)[1])
            return choose(mask, begun, now)

        def choose(mask: Any, one: Any, other: Any) -> Any:
            def pick(a: Any, b: Any) -> Any:
                return jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

            return jax.tree.map(pick, one, other)

        def step_one(key: Any, state: Any, actions: Any) -> Any:
            key = jax.random.fold_in(key, state.state.step)
            told = dict(zip(env.agents, actions, strict=True))
            _, after, rewards, _, _ = env.step_env(key, state, told)
            return after, rewards[env.agents[0]]

        def step(actions: Any, now: Any) -> Any:
            key, states = now
            after, reward = jax.vmap(step_one)(key, states, actions)
            over = states.state.done
            return (key, choose(over, states, after)), jnp.where(over, 0.0, reward)

        def shown(state: Any) -> Any:
            obs, masks = env.get_obs(state), env.get_avail_actions(state)
            alive = state.state.unit_alive
            return {
                "obs": jnp.stack([obs[agent] for agent in env.agents]).astype(jnp.float32),
                "state": env.get_world_state(state).astype(jnp.float32),
                "avail_actions": jnp.stack([masks[a] for a in env.agents]).astype(jnp.uint8),
                "alive": alive.astype(jnp.uint8),
                "done": state.state.done.astype(jnp.uint8),
            }

        self._reset, self._step = jax.jit(reset), jax.jit(step)
        self._shown = jax.jit(jax.vmap(shown))
        key = keys(jnp.zeros(n_battles, jnp.int32))
        self._now = (key, jax.vmap(env.reset)(key)[1])

    def sizes(self) -> dict[str, Any]:
        sizes = {name: values.shape[1:] for name, values in self._show().items()}
        # It looks at the clock before the step is counted.
        limit, enemies = int(self._env.max_steps) + 1, int(self._env.num_enemies)
        return {"sizes": sizes, "episode_limit": limit, "n_enemies": enemies}

    def reset(self, mask: bytes, numbers: bytes) -> dict[str, bytes]:
        chosen, ids = np.frombuffer(mask, np.bool_), np.frombuffer(numbers, np.int32)
        self._now = self._reset(chosen, ids, self._now)
        return self._bytes()

    def step(self, actions: bytes) -> dict[str, bytes]:
        chosen = np.frombuffer(actions, np.int32).reshape(self._n, -1)
        self._now, reward = self._step(chosen, self._now)
        return {**self._bytes(), "reward": np.asarray(reward, np.float32).tobytes()}

    def _show(self) -> dict[str, Any]:
        return {name: np.asarray(values) for name, values in self._shown(self._now[1]).items()}

    def _bytes(self) -> dict[str, bytes]:
        return {name: values.tobytes() for name, values in self._show().items()}


def main(descriptor: int, map_name: str, n_battles: int, seed: int) -> None:
    pipe = Connection(descriptor)
    battles = Battles(map_name, n_battles, seed)
    pipe.send(battles.sizes())
    try:
        while True:
            order, *given = pipe.recv()
            pipe.send(getattr(battles, order)(*given))
    except (EOFError, OSError):
        pass  # the other side has gone


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
