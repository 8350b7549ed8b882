"""SMAC's own face: `StarCraft2Env`, so that code written for SMAC runs by changing one import.

    from smac.env import StarCraft2Env  ->  from training.envs.starcraft2 import StarCraft2Env

Method for method and argument for argument the interface of oxwhirl/smac (commit d6aab33), for
one battle at a time. docs/environments.md says what differs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
import numpy.typing as npt
import torch

from training.envs import nearest
from training.envs.base import UnavailableActionError
from training.envs.single import SingleBattle
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.features import SIGHT_RANGE
from training.envs.skirmish.frames import replay
from training.envs.skirmish.options import OptionError
from training.envs.skirmish.scenario import Scenario
from training.envs.skirmish.text_view import text_view
from training.envs.starcraft2_map import StarCraft2Map
from training.envs.starcraft2_units import Unit, units_now
from training.types import FloatArray, Transition

# Arguments about the game's program: they are accepted, kept as attributes, and change nothing.
NO_EFFECT = frozenset({"difficulty", "game_version", "debug", "window_size_x", "window_size_y"})
NOT_OPTIONS = NO_EFFECT | {"map_name", "seed", "replay_dir", "replay_prefix"}


class UnavailableActionAssertionError(UnavailableActionError, AssertionError):
    """An unavailable action, for code that expects SMAC's AssertionError as well."""


class StarCraft2Env(StarCraft2Map):
    """SMAC's environment on Skirmish; arguments and their defaults are SMAC's.

    Those of `NO_EFFECT` change nothing. Each `reset()` plays the next battle of the seed, first
    number 0; without a seed one is drawn, and `seed()` tells which.

    Raises:
        ValueError: unknown map or argument, with the nearest known one; or an unusable value.
    """

    def __init__(
        self,
        map_name: str | Scenario = "8m",
        step_mul: int | None = 8,
        move_amount: float = 2,
        difficulty: str = "7",
        game_version: str | None = None,
        seed: int | None = None,
        continuing_episode: bool = False,
        obs_all_health: bool = True,
        obs_own_health: bool = True,
        obs_last_action: bool = False,
        obs_pathing_grid: bool = False,
        obs_terrain_height: bool = False,
        obs_instead_of_state: bool = False,
        obs_timestep_number: bool = False,
        state_last_action: bool = True,
        state_timestep_number: bool = False,
        reward_sparse: bool = False,
        reward_only_positive: bool = True,
        reward_death_value: float = 10,
        reward_win: float = 200,
        reward_defeat: float = 0,
        reward_negative_scale: float = 0.5,
        reward_scale: bool = True,
        reward_scale_rate: float = 20,
        replay_dir: str = "",
        replay_prefix: str = "",
        window_size_x: int = 1920,
        window_size_y: int = 1200,
        heuristic_ai: bool = False,
        heuristic_rest: bool = False,
        debug: bool = False,
        **unknown: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in ARGUMENTS}
        for name in unknown:
            raise OptionError(f"StarCraft2Env has no argument {name!r}{nearest(name, ARGUMENTS)}")
        given["step_mul"] = step_mul = 8 if step_mul is None else step_mul  # None: the map's own
        # The defaults are Skirmish's own too, so only what differs has to be known to it.
        options = {k: v for k, v in given.items() if k not in NOT_OPTIONS and v != ARGUMENTS[k]}
        super().__init__(SingleBattle(map_name, seed, **options))
        self._options = options
        self.replay_dir, self.replay_prefix = replay_dir, replay_prefix
        # SMAC's settings can be read off its environment.
        vars(self).update({k: v for k, v in given.items() if k not in ("map_name", "seed")})
        self.continuing_episode = continuing_episode
        self.obs_own_health = obs_own_health or obs_all_health
        self.obs_instead_of_state = obs_instead_of_state
        self.window_size = (window_size_x, window_size_y)
        self.battles_won = self.battles_game = self.timeouts = self.force_restarts = 0
        self._episode_count = self._episode_steps = self._total_steps = 0
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        self.reward = 0.0

    # ----------------------------------------------------------------- playing

    def reset(self) -> tuple[list[FloatArray], FloatArray]:
        """Begin the next battle: the agents' observations, A times [O] float32, and state [S]."""
        self._battle.reset()
        self._episode_count += 1
        self._episode_steps = 0
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        return self.get_obs(), self.get_state()

    def step(self, actions: Iterable[SupportsInt]) -> tuple[float, bool, dict[str, Any]]:
        """One step by A actions, a list, array or tensor: reward, terminated, info.

        `terminated` is also True when time is up; info["episode_limit"] says so, but only if
        `continuing_episode` (spec §3.3, §3.4).

        Raises:
            UnavailableActionAssertionError: also an AssertionError, as SMAC's; nothing has moved.
        """
        numbers = [int(action) for action in actions]
        try:
            after = self._battle.step(numbers)
        except UnavailableActionError as error:
            raise UnavailableActionAssertionError(error.battle, error.agent, error.action) from None
        self.last_action = np.eye(self.n_actions)[numbers]
        self._episode_steps += 1
        self._total_steps += 1
        self.reward = float(after.reward[0])
        return self.reward, self._battle.over, self._account(after)

    def _account(self, after: Transition) -> dict[str, Any]:
        won, timed_out = bool(after.battle_won[0]), bool(after.truncated[0])
        self.battles_game += self._battle.over
        self.battles_won += won
        self.timeouts += timed_out
        info: dict[str, Any] = {
            "battle_won": won,
            "dead_allies": int(after.dead_allies[0]),
            "dead_enemies": int(after.dead_enemies[0]),
        }
        if timed_out and self.continuing_episode:
            info["episode_limit"] = True
        return info

    def get_stats(self) -> dict[str, float]:
        """Since construction; win_rate is 0 before a battle has ended (SMAC divides by zero)."""
        return {
            "battles_won": self.battles_won,
            "battles_game": self.battles_game,
            "battles_draw": self.timeouts,
            "win_rate": self.battles_won / max(self.battles_game, 1),
            "timeouts": self.timeouts,
            "restarts": self.force_restarts,
        }

    def seed(self, seed: int | None = None) -> int:
        """The seed. SMAC's takes none; EPyMARL's wrapper gives one, and battles begin anew."""
        if seed is not None:
            self._battle.reseed(seed)
        return self._battle.seed

    def full_restart(self) -> None:
        """SMAC launches the game again; there is none."""

    def close(self) -> None:
        """Nothing is held that would have to be released."""

    def render(self, mode: str = "human") -> str | None:
        """The battle as text: printed ("human"; SMAC opens a window), or returned ("ansi")."""
        if mode not in ("human", "ansi"):
            raise ValueError(f"no render mode {mode!r}; there are 'human' and 'ansi'")
        env = self._battle.env
        picture = text_view(env.world, env.scenario, self.n_agents)
        if mode == "ansi":
            return picture
        print(picture)
        return None

    def save_replay(self) -> Path:
        """Write the battle so far as a page that any browser shows, and say where it is.

        It is played again from its number and actions. The file is
        `replay_dir`/`replay_prefix`_`seed`_`battle`.html; the prefix is the map's name by default.

        Raises:
            RuntimeError: no battle has begun. OSError: the file cannot be written.
        """
        from training.replay_page import to_page  # it needs what only a picture needs

        battle = self._battle
        battle.obs()  # raises before the first battle
        seed, number = battle.begun
        again = SkirmishEnv(battle.env.scenario, 1, seed=seed, **self._options)
        shown = replay(again, number, torch.tensor(battle.played), "StarCraft2Env")
        name = f"{self.replay_prefix or self.map_name}_{seed}_{number}.html"
        path = Path(self.replay_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{name}")
        aside.write_text(to_page(shown, None), encoding="utf-8")
        aside.replace(path)
        print(f"Replay saved at: {path}")
        return path

    # ----------------------------------------------------------------- viewing

    def get_obs(self) -> list[FloatArray]:
        return list(self._battle.obs())

    def get_obs_agent(self, agent_id: int) -> FloatArray:
        return self.get_obs()[agent_id]

    def get_state(self) -> FloatArray:
        return self._battle.state()

    def get_avail_actions(self) -> list[list[int]]:
        rows: list[list[int]] = self._battle.avail_actions().int().tolist()
        return rows

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        return self.get_avail_actions()[agent_id]

    def get_state_dict(self) -> dict[str, Any]:
        """The state in parts: allies [n, F], enemies [k, F], last_action [n, U], timestep."""
        if self.obs_instead_of_state:
            raise NotImplementedError("with obs_instead_of_state the state has no such parts")
        n, k, state = self.n_agents, self.n_enemies, self.get_state()
        ends = np.cumsum((n * self.get_ally_num_attributes(), k * self.get_enemy_num_attributes()))
        allies, enemies, rest = np.split(state, ends)
        parts: dict[str, Any] = {"allies": allies.reshape(n, -1), "enemies": enemies.reshape(k, -1)}
        last_actions = n * self.n_actions
        if len(rest) >= last_actions:
            parts["last_action"] = rest[:last_actions].reshape(n, -1)
        if len(rest) % last_actions:
            parts["timestep"] = float(rest[-1])
        return parts

    def get_visibility_matrix(self) -> npt.NDArray[np.bool_]:
        """[n, n + k]: whom each living agent sees, itself not among them."""
        units = [*self.agents.values(), *self.enemies.values()]
        at = np.array([unit.pos for unit in units])
        alive = np.array([unit.health > 0 for unit in units])
        offsets = at[None] - at[: self.n_agents, None]
        sees: npt.NDArray[np.bool_] = np.hypot(offsets[..., 0], offsets[..., 1]) < SIGHT_RANGE
        sees &= alive[None] & alive[: self.n_agents, None]
        np.fill_diagonal(sees, False)
        return sees

    @property
    def agents(self) -> dict[int, Unit]:
        """Agent id -> its unit as it is now; ask again after a step."""
        world, rows = self._battle.env.world, range(self.n_agents)
        return units_now(world, self._battle.units, rows, self._ally_ids, owner=1)

    @property
    def enemies(self) -> dict[int, Unit]:
        world, rows = self._battle.env.world, range(self.n_agents, len(self._battle.units))
        return units_now(world, self._battle.units, rows, self._enemy_ids, owner=2)

    def get_unit_by_id(self, a_id: int) -> Unit:
        return self.agents[a_id]


ARGUMENTS = {
    name: argument.default
    for name, argument in inspect.signature(StarCraft2Env).parameters.items()
    if argument.kind is argument.POSITIONAL_OR_KEYWORD
}
"""SMAC's arguments and their defaults."""

MultiAgentEnv = StarCraft2Env  # SMAC exports its base class, which code names in annotations
