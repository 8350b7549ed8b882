"""The PettingZoo face: Skirmish as a `ParallelEnv`, one battle at a time.

    env = parallel_env(map_name="3s5z")
    env = pettingzoo.make("parallel", "unmix/skirmish-v0", map_name="3s5z")

The second line needs this module to be imported first, which registers the name. Observations are
PettingZoo's usual dict of "observation" and "action_mask"; the mask is in the infos as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

try:
    import pettingzoo
    from gymnasium import spaces
    from pettingzoo.utils import OrderEnforcingWrapper, parallel_to_aec
except ModuleNotFoundError:
    raise ImportError(
        "training.envs.parallel needs PettingZoo; run: pip install 'unmix[pettingzoo]'"
    ) from None

from training.envs.single import SingleBattle
from training.envs.skirmish.scenario import Scenario
from training.envs.skirmish.text_view import text_view
from training.types import FloatArray, Transition

ENV_ID = "unmix/skirmish-v0"

Mask = npt.NDArray[np.int8]
Shown = dict[str, dict[str, Any]]


class AgentActions(spaces.Discrete):
    """The U actions of an agent; sampled without a mask, one that is available to it now.

    So tools that sample without masks, PettingZoo's `parallel_seed_test` among them, play by the
    rules too. A copy keeps the mask that it was copied with.
    """

    available: Mask | None = None

    def sample(self, mask: Mask | None = None, probability: Any = None) -> np.int64:
        if mask is None and probability is None:
            mask = self.available
        return super().sample(mask, probability)


class SkirmishParallelEnv(pettingzoo.ParallelEnv):  # type: ignore[misc]  # it is untyped
    """One battle as PettingZoo sees it; agent `marine_0` is the first of its type.

    All agents stay until the battle ends, the dead with no-op alone; all get the team's reward.
    A decided battle terminates, one that ran out of time is truncated.

    Args:
        map_name: as `SkirmishEnv`'s.
        seed: of the battles, as `reset`'s; drawn if neither is given.
        render_mode: "ansi" returns the battle as text, "human" prints it.
        env_args: SMAC's options, see `SkirmishOptions`.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "skirmish_v0",
        "render_modes": ["human", "ansi"],
        "is_parallelizable": True,
    }

    def __init__(
        self,
        map_name: str | Scenario = "3s5z",
        seed: int | None = None,
        render_mode: str | None = None,
        **env_args: Any,
    ) -> None:
        modes = self.metadata["render_modes"]
        if render_mode not in (None, *modes):
            raise ValueError(f"no render mode {render_mode!r}; there are {', '.join(modes)}")
        self.render_mode = render_mode
        self._battle = SingleBattle(map_name, seed, **env_args)
        info = self._battle.info
        count: Counter[str] = Counter()
        self.possible_agents: list[str] = []
        for kind in info.unit_types:
            self.possible_agents.append(f"{kind}_{count[kind]}")
            count[kind] += 1
        self.agents: list[str] = []
        self.state_space = spaces.Box(-np.inf, np.inf, (info.state_dim,), np.float32)
        self.action_spaces = {name: AgentActions(info.n_actions) for name in self.possible_agents}
        self.observation_spaces = {
            name: spaces.Dict(
                {
                    "observation": spaces.Box(-1.0, 1.0, (info.obs_dim,), np.float32),
                    "action_mask": spaces.Box(0, 1, (info.n_actions,), np.int8),
                }
            )
            for name in self.possible_agents
        }

    def observation_space(self, agent: str) -> spaces.Dict:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> AgentActions:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Shown, Shown]:
        """Begin the seed's next battle: observations and infos by agent.

        With a seed, its battle 0. There are no options.
        """
        if seed is not None:
            self._battle.reseed(seed)
        self._battle.reset()
        self.agents = self.possible_agents[:]
        observations = self._observe()
        return observations, {
            agent: {"action_mask": shown["action_mask"]} for agent, shown in observations.items()
        }

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[Shown, dict[str, float], dict[str, bool], dict[str, bool], Shown]:
        """One step by an action for each agent.

        Returns:
            Observations, rewards, terminations, truncations and infos, each by agent.

        Raises:
            UnavailableActionError: naming battle, agent and action; nothing has moved then.
        """
        after = self._battle.step(self._in_order(actions))
        agents, observations = self.agents, self._observe()
        infos = {agent: _info(after, observations[agent]["action_mask"]) for agent in agents}
        if self._battle.over:
            self.agents = []
        return (
            observations,
            dict.fromkeys(agents, float(after.reward[0])),
            dict.fromkeys(agents, bool(after.terminated[0])),
            dict.fromkeys(agents, bool(after.truncated[0])),
            infos,
        )

    def _in_order(self, actions: Mapping[str, Any]) -> list[int]:
        """By agent id. Without agents the battle's own errors say what is wrong."""
        if not self.agents:
            return []
        missing = [agent for agent in self.agents if agent not in actions]
        unknown = [agent for agent in actions if agent not in self.agents]
        if missing or unknown:
            raise ValueError(
                f"one action for each agent is needed; missing {missing}, unknown {unknown}"
            )
        return [int(actions[agent]) for agent in self.agents]

    def _observe(self) -> Shown:
        """By agent; what is available is told to the action spaces too."""
        masks = self._battle.avail_actions().numpy().astype(np.int8)
        shown = {}
        for agent, obs, mask in zip(self.possible_agents, self._battle.obs(), masks, strict=True):
            self.action_spaces[agent].available = mask.copy()
            shown[agent] = {"observation": obs, "action_mask": mask}
        return shown

    def state(self) -> FloatArray:
        """[S] float32, of the whole battle; training alone may read it."""
        return self._battle.state()

    def render(self) -> str | None:
        """The battle as text, by `render_mode`."""
        if self.render_mode is None:
            raise ValueError("nothing to render; build the environment with a render_mode")
        env = self._battle.env
        picture = text_view(env.world, env.scenario, env.info.n_agents)
        if self.render_mode == "ansi":
            return picture
        print(picture)
        return None

    def close(self) -> None:
        """Nothing is held that would have to be released."""


def _info(after: Transition, mask: Mask) -> dict[str, Any]:
    return {
        "action_mask": mask,
        "battle_won": bool(after.battle_won[0]),
        "dead_allies": int(after.dead_allies[0]),
        "dead_enemies": int(after.dead_enemies[0]),
    }


def parallel_env(map_name: str | Scenario = "3s5z", **env_args: Any) -> SkirmishParallelEnv:
    """See `SkirmishParallelEnv`."""
    return SkirmishParallelEnv(map_name, **env_args)


def env(**env_args: Any) -> Any:
    """The same battle with agents that act in turn, as PettingZoo's `AECEnv`."""
    return OrderEnforcingWrapper(parallel_to_aec(parallel_env(**env_args)))


def _register() -> None:
    """Make the environment known to `pettingzoo.make`, once."""
    if ENV_ID not in pettingzoo.parallel_registry:
        pettingzoo.register("parallel", ENV_ID, entry_point=f"{__name__}:parallel_env")
        pettingzoo.register("aec", ENV_ID, entry_point=f"{__name__}:env")


_register()
