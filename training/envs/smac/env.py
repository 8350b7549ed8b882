"""The batched protocol over SMAC: each of E battles in a game of its own, all stepping at once."""

from __future__ import annotations

import hashlib
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from training.envs import GameError
from training.envs.base import UnavailableActionError
from training.envs.skirmish.layout import in_agent_order
from training.envs.smac.game import Game, LostGameError
from training.envs.smac.installation import require_game, smac_python
from training.envs.smac.options import SmacTask, check_smac
from training.types import EnvInfo, Observation, Transition

MOST_FAILURES = 5
"""Games of one slot, one after another, that break off before a battle of theirs is over."""

Answers = dict[int, dict[str, Any]]


class SmacEnv:
    """E battles of StarCraft II; see `training.envs.base.BatchedEnv` for the protocol.

    A game starts with the first reset of its slot and plays one battle after another. One that has
    crashed, hangs or sends what is no answer is killed, its battle is `Transition.lost`, and the
    slot's next reset starts another, while the other battles wait.

    Args:
        map_name: one of SMAC's.
        n_envs: E.
        seed: with the number of the first battle that a game plays it fixes the game's own seed.
        env_args: SMAC's, and `Patience`'s.

    Raises:
        ValueError: unknown map or option. GameError: something is not installed.
    """

    def __init__(
        self,
        map_name: str,
        n_envs: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        **env_args: Any,
    ) -> None:
        self.task = check_smac(map_name, env_args)
        require_game(map_name)
        self.n_envs, self.seed, self.device = n_envs, seed, torch.device(device)
        self.info = _info(self.task)
        self.restarts = 0
        """Games killed because they had crashed, hung or sent what is no answer."""
        self._python = smac_python()
        self._games: list[Game | None] = [None] * n_envs
        self._close = weakref.finalize(self, _close_all, self._games)
        self._next_battle = 0
        self._ids = np.full(n_envs, -1)
        self._starts, self._failures = np.zeros((2, n_envs), np.int64)
        a, u = self.info.n_agents, self.info.n_actions
        self._obs = np.zeros((n_envs, a, self.info.obs_dim), np.float32)
        self._state = np.zeros((n_envs, self.info.state_dim), np.float32)
        self._avail_actions = np.zeros((n_envs, a, u), np.bool_)
        self._terminated, self._truncated, self._lost = np.zeros((3, n_envs), np.bool_)
        self._dead_allies, self._dead_enemies = np.zeros((2, n_envs), np.int64)

    def close(self) -> None:
        """End all games. They end with this process too."""
        self._close()

    # ------------------------------------------------------------------ reset

    def reset(
        self, mask: torch.Tensor | None = None, battle_ids: torch.Tensor | None = None
    ) -> Observation:
        """Begin new battles in the slots of `mask`; see `BatchedEnv.reset`.

        Raises:
            GameError: a game breaks off again and again, or SMAC cannot be imported.
        """
        chosen = np.ones(self.n_envs, np.bool_) if mask is None else mask.cpu().numpy()
        slots = np.flatnonzero(chosen)
        fresh = self._next_battle + np.arange(len(slots))
        self._ids[slots] = fresh if battle_ids is None else battle_ids.cpu().numpy()[slots]
        self._next_battle = max(self._next_battle, int(self._ids[slots].max(initial=-1)) + 1)
        waiting = {int(slot) for slot in slots}
        while waiting:  # more than once where games break off
            begun = self._ask_all(waiting, self._begin, self.task.patience.reset_seconds)
            for slot, answer in begun.items():
                self._show(slot, answer)
                self._note_version(answer["version"])
            waiting -= begun.keys()
        for state in (self._terminated, self._truncated, self._lost):
            state[slots] = False
        self._dead_allies[slots] = self._dead_enemies[slots] = 0
        return self._observation()

    def _begin(self, slot: int) -> None:
        game = self._games[slot]
        if game is None:
            game = self._games[slot] = Game(self._python)
            self._starts[slot] += 1
        seed = game_seed(self.seed, int(self._ids[slot]), int(self._starts[slot]))
        game.ask("reset", {**self.task.arguments, "seed": seed})

    def _note_version(self, version: str | None) -> None:
        if version is not None:
            self.info = replace(self.info, game_version=version)

    # ------------------------------------------------------------------- step

    def step(self, actions: torch.Tensor) -> Transition:
        """Advance every battle by one step; see `BatchedEnv.step`.

        Raises:
            GameError: a slot's games break off again and again.
        """
        chosen = actions.cpu().numpy()
        if chosen.shape != self._avail_actions.shape[:2]:
            raise ValueError(
                f"actions have shape {chosen.shape}, expected {self._avail_actions.shape[:2]}"
            )
        if (self._ids < 0).any():
            raise RuntimeError("step before the first reset")
        playing = ~(self._terminated | self._truncated | self._lost)
        if not self.task.options.heuristic_ai:  # it ignores them, and the masks
            self._refuse(chosen, playing)
        slots = {int(slot) for slot in np.flatnonzero(playing)}
        reward, won = np.zeros(self.n_envs, np.float32), np.zeros(self.n_envs, np.bool_)
        answers = self._ask_all(
            slots,
            lambda slot: self._game(slot).ask("step", chosen[slot].tolist()),
            self.task.patience.step_seconds,
        )
        for slot, answer in answers.items():
            self._show(slot, answer)
            reward[slot], won[slot] = answer["reward"], answer["battle_won"]
            self._terminated[slot] = answer["terminated"]
            self._truncated[slot] = answer["truncated"]
            self._dead_allies[slot] = answer["dead_allies"]
            self._dead_enemies[slot] = answer["dead_enemies"]
            if answer["terminated"] or answer["truncated"]:
                self._failures[slot] = 0
        for slot in slots - answers.keys():
            self._lost[slot] = True
        return Transition(
            self._observation(),
            self._tensor(reward),
            self._tensor(self._terminated),
            self._tensor(self._truncated),
            self._tensor(won),
            self._tensor(self._dead_allies),
            self._tensor(self._dead_enemies),
            self._tensor(self._lost),
        )

    def _refuse(self, actions: np.ndarray[Any, Any], playing: np.ndarray[Any, Any]) -> None:
        """Raise for the first unavailable action, before any game moves."""
        fits = (actions >= 0) & (actions < self.info.n_actions)
        known = np.where(fits, actions, 0)
        available = np.take_along_axis(self._avail_actions, known[..., None], 2)[..., 0] & fits
        wrong = np.argwhere(~available & playing[:, None])
        if len(wrong):
            slot, agent = (int(i) for i in wrong[0])
            raise UnavailableActionError(int(self._ids[slot]), agent, int(actions[slot, agent]))

    # ------------------------------------------------------------------ games

    def _ask_all(self, slots: Iterable[int], ask: Callable[[int], None], seconds: float) -> Answers:
        """Ask the slots' games all at once, then wait for each. Those that have broken off are
        missing in the answers.

        Raises:
            GameError: a slot's games break off again and again, or SMAC cannot be imported.
        """
        slots = sorted(slots)
        for slot in slots:
            ask(slot)
        deadline = time.monotonic() + seconds
        answers: Answers = {}
        for slot in slots:
            try:
                answers[slot] = self._game(slot).answer(deadline)
            except LostGameError as error:
                self._count_lost(slot, error)
        return answers

    def _count_lost(self, slot: int, error: LostGameError) -> None:
        self._games[slot] = None
        self.restarts += 1
        self._failures[slot] += 1
        if self._failures[slot] >= MOST_FAILURES:
            raise GameError(
                f"{MOST_FAILURES} games in a row broke off before a battle was over, the last one "
                f"with: {error}\nIts last words:\n{error.last_lines}"
            )

    def _game(self, slot: int) -> Game:
        game = self._games[slot]
        assert game is not None, "a battle is under way without a game"
        return game

    def _show(self, slot: int, answer: Mapping[str, Any]) -> None:
        """Raises: GameError: what SMAC shows is not what Skirmish would."""
        for name, rows in (
            ("obs", self._obs),
            ("state", self._state),
            ("avail_actions", self._avail_actions),
        ):
            values = np.frombuffer(answer[name], np.uint8 if rows.dtype == bool else rows.dtype)
            if values.size != rows[slot].size:
                raise GameError(
                    f"SMAC shows {values.size} numbers of {name} on {self.info.map_name}, not "
                    f"{rows[slot].size}: it is not the version that docs/environments.md names"
                )
            rows[slot] = values.reshape(rows[slot].shape)

    def _observation(self) -> Observation:
        return Observation(*map(self._tensor, (self._obs, self._state, self._avail_actions)))

    def _tensor(self, values: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.tensor(values, device=self.device)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """The numbers of battles. The battles themselves are the games', and lost with them."""
        return {"next_battle": self._next_battle}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Games that are up by now would play battles again that others have played before."""
        self._next_battle = state["next_battle"]
        _close_all(self._games)
        self._games[:] = [None] * self.n_envs


def game_seed(seed: int, battle: int, start: int) -> int:
    """The seed of a slot's `start`-th game, whose first battle has this number: 31 bits.

    Slots, tests and restarts differ in one of them, so that no two games play the same battles.
    """
    digest = hashlib.sha256(f"{seed}/{battle}/{start}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _info(task: SmacTask) -> EnvInfo:
    scenario, layout = task.scenario, task.layout
    return EnvInfo(
        name="smac",
        map_name=scenario.name,
        n_agents=len(scenario.ally_units),
        n_enemies=len(scenario.enemy_units),
        n_actions=len(layout.actions),
        obs_dim=len(layout.obs),
        state_dim=len(layout.state),
        episode_limit=scenario.episode_limit,
        unit_types=tuple(unit.name for unit in in_agent_order(scenario)),
        continuing_episode=task.options.continuing_episode,
        layout_sha256=layout.sha256,
    )


def _close_all(games: list[Game | None]) -> None:
    for game in games:
        if game is not None:
            game.close()
