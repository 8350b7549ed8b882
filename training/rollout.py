"""Playing battles side by side: for learning, for tests, and once more from a log.

A battle that ends is replaced at once by the next, so nobody waits for the longest. Whatever a
step brings is written as one plane of all E battles into a ring of the last T + 1 planes; a battle
is read out of the ring, a column of it, when it has ended.

Battles for learning are numbered 0, 1, 2, ..., tests from `TEST_BATTLES` on: with one seed they
never meet. An evaluation that shares neither uses another seed.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from training.envs import GAMES
from training.envs.base import BatchedEnv, UnavailableActionError
from training.exploration import epsilon_greedy, greedy
from training.networks.agent import DRQN, NO_ACTION
from training.types import BattleRecord, Episode, Observation, Transition

TEST_BATTLES = 2**40


class ReplayMismatchError(RuntimeError):
    """The environment, given a battle's number and actions, no longer plays that battle."""


class Policy(Protocol):
    """Chooses for the agents of E battles, and remembers what it needs between steps."""

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        """New battles begin: `battle_ids` ([E] int64) in those `slots` ([E] bool) that are True."""
        ...

    def act(self, observation: Observation) -> torch.Tensor:
        """The actions of all agents, [E, A] int64. Those of battles that have ended are ignored."""
        ...


class Ring:
    """The last R planes of named quantities; a plane is an [E, ...] tensor, one step's."""

    def __init__(self, planes: dict[str, torch.Tensor]) -> None:
        """Args: planes: name -> storage, [R, E, ...]; all with the same R and E."""
        self.planes = planes
        self.size = len(next(iter(planes.values())))

    def write(self, tick: int, **values: torch.Tensor) -> None:
        for name, value in values.items():
            self.planes[name][tick % self.size].copy_(value)

    def read(self, name: str, slots: torch.Tensor, starts: torch.Tensor, n: int) -> torch.Tensor:
        """[F, n, ...]: for each of F slots the n planes from its start tick on."""
        ticks = starts[:, None] + torch.arange(n, device=starts.device)
        return self.planes[name][ticks % self.size, slots[:, None]]


class Battles:
    """E slots of an environment, the battle in each, and the ring that remembers them.

    Args:
        keep_observations: remember what the learner needs too, not actions and rewards alone.
    """

    def __init__(self, env: BatchedEnv, keep_observations: bool) -> None:
        self.env = env
        self.tick = 0
        self.ids = torch.full((env.n_envs,), -1, device=env.device)
        self.starts = torch.zeros(env.n_envs, dtype=torch.int64, device=env.device)
        self.ring = Ring(_planes(env, keep_observations))
        self._keep_observations = keep_observations

    def begin(self, slots: torch.Tensor, ids: torch.Tensor) -> Observation:
        """Start the battles `ids` in `slots` (both [E]; the rest of `ids` is not read)."""
        self.ids = torch.where(slots, ids, self.ids)
        self.starts = torch.where(slots, self.tick, self.starts)
        observation = self.env.reset(slots, self.ids)
        self._remember(observation)
        return observation

    def step(self, actions: torch.Tensor) -> Transition:
        transition = self.env.step(actions)
        self.ring.write(self.tick, actions=actions, reward=transition.reward)
        self.tick += 1
        self._remember(transition.observation)
        return transition

    def records(self, ended: torch.Tensor, transition: Transition) -> list[BattleRecord]:
        """What the battles were that this transition ended ([E] bool, some True), by slot."""
        return [
            BattleRecord(episode_return=float(reward.sum(dtype=np.float64)), **battle)
            for battle in self._read(ended, transition)
            for reward in (battle.pop("reward"),)
        ]

    def episodes(self, ended: torch.Tensor, transition: Transition) -> list[Episode]:
        """The battles that this transition ended ([E] bool, some True) for the replay, by slot."""
        decided = transition.terminated[ended].tolist()
        bootstraps = self.env.info.continuing_episode
        return [
            Episode(terminal=won_or_lost or not bootstraps, **battle)
            for battle, won_or_lost in zip(self._read(ended, transition), decided, strict=True)
        ]

    def _remember(self, observation: Observation) -> None:
        if self._keep_observations:
            self.ring.write(self.tick, **observation._asdict())

    def _read(self, ended: torch.Tensor, transition: Transition) -> list[dict[str, Any]]:
        """Each ended battle's planes, as arrays of its own length, and its outcome."""
        slots = ended.nonzero()[:, 0]
        starts = self.starts[slots]
        lengths = (self.tick - starts).tolist()
        extra = {name: name in Observation._fields for name in self.ring.planes}
        planes = {  # read for all at once, as long as the longest needs
            name: self.ring.read(name, slots, starts, max(lengths) + extra[name]).cpu().numpy()
            for name in self.ring.planes
        }
        outcome = {
            "battle_id": self.ids[slots].tolist(),
            "battle_won": transition.battle_won[slots].tolist(),
            "dead_allies": transition.dead_allies[slots].tolist(),
            "dead_enemies": transition.dead_enemies[slots].tolist(),
        }
        return [
            {name: values[i] for name, values in outcome.items()}
            | {name: plane[i, : length + extra[name]] for name, plane in planes.items()}
            for i, length in enumerate(lengths)
        ]


class Rollout:
    """Plays battles for learning, one after another in each of E slots."""

    def __init__(self, env: BatchedEnv, policy: AgentPolicy) -> None:
        self.battles = Battles(env, keep_observations=True)
        self.policy = policy
        self.n_envs = env.n_envs
        self._next_battle = 0
        self._observation = self._begin(_everywhere(env))

    @property
    def env_steps(self) -> int:
        """Steps of single battles played so far: E with each step of all."""
        return self.battles.tick * self.n_envs

    def play(self, n_env_steps: int) -> list[Episode]:
        """Play so many environment steps, rounded up to a multiple of E.

        Returns:
            The episodes that ended, in the order they did, by slot within a step.
        """
        episodes: list[Episode] = []
        for _ in range(-(-n_env_steps // self.n_envs)):
            actions = self.policy.act(self._observation)
            transition = self.battles.step(actions)
            self._observation = transition.observation
            ended = transition.terminated | transition.truncated
            if ended.any():
                episodes += self.battles.episodes(ended, transition)
            over = ended | _lost(transition)
            if over.any():
                self._observation = self._begin(over)
        return episodes

    def _begin(self, slots: torch.Tensor) -> Observation:
        ids = self._next_battle + slots.long().cumsum(0) - 1
        self._next_battle += int(slots.sum())
        self.policy.begin(slots, ids)
        return self.battles.begin(slots, ids)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to play on. Of unfinished battles it holds the actions, from which
        `load_state_dict` plays them again: a hundredth of their observations' size. A game's do not
        repeat: others begin in their place."""
        battles = self.battles
        return {
            "tick": battles.tick,
            "next_battle": self._next_battle,
            "ids": battles.ids.clone(),
            "starts": battles.starts.clone(),
            "actions": battles.ring.planes["actions"].clone(),
            "reward": battles.ring.planes["reward"].clone(),
            "env": battles.env.state_dict(),
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises: ReplayMismatchError: the environment plays an unfinished battle differently."""
        battles = self.battles
        battles.tick, self._next_battle = state["tick"], state["next_battle"]
        battles.ids, battles.starts = (state[k].to(battles.env.device) for k in ("ids", "starts"))
        for name in ("actions", "reward"):
            battles.ring.planes[name].copy_(state[name])
        repeats = battles.env.info.name not in GAMES
        if repeats:
            self._observation = _catch_up(battles)
        battles.env.load_state_dict(state["env"])
        self.policy.load_state_dict(state["policy"])
        if not repeats:
            self._observation = self._begin(_everywhere(battles.env))


def _catch_up(battles: Battles) -> Observation:
    """Play unfinished battles again, each from its beginning, to fill the ring's observations.

    All begin together here although they did not then, so the shorter ones overrun; what they do
    after is not looked at. Returns what each of them saw last.
    """
    env, ring = battles.env, battles.ring
    slots = torch.arange(env.n_envs, device=env.device)
    lengths = battles.tick - battles.starts
    now = last = env.reset(_everywhere(env), battles.ids)
    for t in range(int(lengths.max()) + 1):
        planes = (battles.starts + t) % ring.size
        begun, playing = t <= lengths, t < lengths
        for name, value in now._asdict().items():
            plane = ring.planes[name]
            plane[planes[begun], slots[begun]] = value[begun].to(plane.dtype)
        last = _select(lengths == t, now, last)
        logged = ring.planes["actions"][planes, slots].long()
        any_available = now.avail_actions.byte().argmax(-1)
        with _naming_the_battle():
            transition = env.step(torch.where(playing[:, None], logged, any_available))
        changed = playing & (transition.reward != ring.planes["reward"][planes, slots])
        if changed.any():
            raise _mismatch(int(battles.ids[changed][0]), f"step {t} pays another reward")
        now = transition.observation
    return last


def play_battles(env: BatchedEnv, policy: Policy, battle_ids: Sequence[int]) -> list[BattleRecord]:
    """Play these battles, E at a time, each slot taking the next when its own has ended.

    Args:
        env: of at most as many battles as there are to play.

    Returns:
        The battles in the order of `battle_ids`.
    """
    playing = BattleList(env, policy, battle_ids)
    playing.advance(None)
    return playing.records()


class BattleList:
    """`play_battles`, some steps at a time."""

    def __init__(self, env: BatchedEnv, policy: Policy, battle_ids: Sequence[int]) -> None:
        self._battles = Battles(env, keep_observations=False)
        self._steps = battle_steps(self._battles, policy, battle_ids)
        self._battle_ids = battle_ids
        self._played: dict[int, BattleRecord] = {}

    def advance(self, n_steps: int | None) -> int:
        """Take so many steps of the E battles, or all there are. Returns how many it took."""
        taken = 0
        for ended, transition in itertools.islice(self._steps, n_steps):
            taken += 1
            if ended.any():
                for record in self._battles.records(ended, transition):
                    self._played[record.battle_id] = record
        return taken

    @property
    def is_over(self) -> bool:
        return len(self._played) == len(self._battle_ids)

    def records(self) -> list[BattleRecord]:
        """The battles in the order they were asked for, once all are over."""
        return [self._played[battle_id] for battle_id in self._battle_ids]


def rebuild_episodes(
    make_env: Callable[[int], BatchedEnv], log: Sequence[BattleRecord], n_envs: int = 64
) -> Iterator[Episode]:
    """Play logged battles again, exactly.

    Args:
        make_env: number of battles in parallel -> the environment they were first played in.
        log: what was kept of them.

    Yields:
        Their episodes, equal to the first ones to the bit, in the log's order.

    Raises:
        ReplayMismatchError: naming a battle that came out differently.
    """
    if not log:
        return
    battles = Battles(make_env(min(n_envs, len(log))), keep_observations=True)
    logged = {record.battle_id: record for record in log}
    waiting: dict[int, Episode] = {}
    n_given = 0
    with _naming_the_battle():
        policy = LoggedPolicy(battles.env, logged)
        for ended, transition in battle_steps(battles, policy, list(logged)):
            if not ended.any():
                continue
            for episode in battles.episodes(ended, transition):
                _require_equal(episode.record, logged[episode.battle_id])
                waiting[episode.battle_id] = episode
            while n_given < len(log) and log[n_given].battle_id in waiting:
                yield waiting.pop(log[n_given].battle_id)
                n_given += 1


def battle_steps(
    battles: Battles, policy: Policy, battle_ids: Sequence[int]
) -> Iterator[tuple[torch.Tensor, Transition]]:
    """Yields, for each step, which slots' battles it ended ([E] bool) and the transition. A battle
    that was lost is played once more."""
    env, queue = battles.env, deque(battle_ids)
    if env.n_envs > len(queue):
        raise ValueError(f"{env.n_envs} battles in parallel, but {len(queue)} to play")
    free = _everywhere(env)
    busy = ~free
    while queue or busy.any():
        if queue and free.any():
            taken = free & (free.long().cumsum(0) <= len(queue))
            ids = battles.ids.clone()
            ids[taken] = torch.tensor([queue.popleft() for _ in range(int(taken.sum()))]).to(ids)
            policy.begin(taken, ids)
            observation = battles.begin(taken, ids)
            busy = busy | taken
        transition = battles.step(policy.act(observation))
        observation = transition.observation
        ended = busy & (transition.terminated | transition.truncated)
        lost = busy & _lost(transition)
        queue.extendleft(battles.ids[lost].tolist())
        free = ended | lost
        busy = busy & ~free
        yield ended, transition


class AgentPolicy:
    """One agent network plays all E battles, each agent by its own memory alone.

    Args:
        epsilon: environment steps -> chance of a random available action; None plays greedily.
        seed: of the exploration.
    """

    def __init__(
        self, agent: DRQN, n_envs: int, epsilon: Callable[[int], float] | None = None, seed: int = 0
    ) -> None:
        self.agent = agent
        self._epsilon, self._n_envs = epsilon, n_envs
        self._env_steps = 0
        device = agent.fc1.weight.device
        self._random = torch.Generator(device).manual_seed(seed)
        self.q_values: torch.Tensor | None = None
        """[E, A, U], not masked: those of the last `act`, for who watches."""
        self._agent_id = torch.arange(agent.n_agents, device=device).repeat(n_envs)
        self._last_action = torch.full((n_envs, agent.n_agents), NO_ACTION, device=device)
        self._hidden = agent.initial_hidden(n_envs * agent.n_agents)

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        self._last_action.masked_fill_(slots[:, None], NO_ACTION)
        self._hidden.view(self._n_envs, -1).masked_fill_(slots[:, None], 0.0)

    @torch.no_grad()
    def act(self, observation: Observation) -> torch.Tensor:
        obs = observation.obs.flatten(0, 1)
        q_values, self._hidden = self.agent.step(
            obs, self._last_action.flatten(), self._agent_id, self._hidden
        )
        self.q_values = q_values.view(observation.avail_actions.shape)
        self._last_action = self._choose(self.q_values, observation.avail_actions)
        self._env_steps += self._n_envs
        return self._last_action

    def _choose(self, q_values: torch.Tensor, avail_actions: torch.Tensor) -> torch.Tensor:
        if self._epsilon is None:
            return greedy(q_values, avail_actions)
        epsilon = self._epsilon(self._env_steps)
        return epsilon_greedy(q_values, avail_actions, epsilon, self._random)

    def state_dict(self) -> dict[str, Any]:
        """Its memory and random state; the network is the learner's to keep."""
        return {
            "env_steps": self._env_steps,
            "last_action": self._last_action.clone(),
            "hidden": self._hidden.clone(),
            "random": self._random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._env_steps = state["env_steps"]
        self._last_action = state["last_action"].to(self._last_action.device)
        self._hidden = state["hidden"].to(self._hidden.device)
        self._random.set_state(state["random"])


class LoggedPolicy:
    """Takes the actions that a log holds; past a battle's end, its last ones."""

    def __init__(self, env: BatchedEnv, logged: Mapping[int, BattleRecord]) -> None:
        self._logged, self._device = logged, env.device
        shape = (env.info.episode_limit, env.n_envs, env.info.n_agents)
        self._actions = np.zeros(shape, dtype=np.uint8)
        self._steps = np.zeros(env.n_envs, dtype=np.int64)
        self._slots = np.arange(env.n_envs)

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        for slot in slots.nonzero()[:, 0].tolist():
            actions = self._logged[int(battle_ids[slot])].actions
            self._actions[: len(actions), slot] = actions
            self._actions[len(actions) :, slot] = actions[-1]
            self._steps[slot] = 0

    def act(self, observation: Observation) -> torch.Tensor:
        steps = np.minimum(self._steps, len(self._actions) - 1)
        self._steps += 1
        return torch.from_numpy(self._actions[steps, self._slots]).to(self._device).long()


def _planes(env: BatchedEnv, observations: bool) -> dict[str, torch.Tensor]:
    """Storage for an episode of the longest kind: T + 1 observations, T actions and rewards."""
    info, size = env.info, (env.info.episode_limit + 1, env.n_envs)
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "actions": ((info.n_agents,), torch.uint8),
        "reward": ((), torch.float32),
    }
    if observations:
        # The replay stores float16, so nothing finer need be remembered.
        shapes |= {
            "obs": ((info.n_agents, info.obs_dim), torch.float16),
            "state": ((info.state_dim,), torch.float16),
            "avail_actions": ((info.n_agents, info.n_actions), torch.bool),
        }
    return {
        name: torch.zeros(size + shape, dtype=dtype, device=env.device)
        for name, (shape, dtype) in shapes.items()
    }


def _everywhere(env: BatchedEnv) -> torch.Tensor:
    return torch.ones(env.n_envs, dtype=torch.bool, device=env.device)


def _lost(transition: Transition) -> torch.Tensor:
    """[E] bool: the battles that count for nothing."""
    lost = transition.lost
    return torch.zeros_like(transition.terminated) if lost is None else lost


def _select(slots: torch.Tensor, new: Observation, old: Observation) -> Observation:
    """`new` in these slots ([E] bool), `old` in the others."""
    return Observation(
        torch.where(slots[:, None, None], new.obs, old.obs),
        torch.where(slots[:, None], new.state, old.state),
        torch.where(slots[:, None, None], new.avail_actions, old.avail_actions),
    )


@contextlib.contextmanager
def _naming_the_battle() -> Iterator[None]:
    try:
        yield
    except UnavailableActionError as error:
        raise _mismatch(error.battle, "a logged action is not available now") from error


def _require_equal(played: BattleRecord, logged: BattleRecord) -> None:
    if (played.episode_return, played.length) != (logged.episode_return, logged.length):
        raise _mismatch(
            logged.battle_id,
            f"it returned {logged.episode_return} in {logged.length} steps, "
            f"now {played.episode_return} in {played.length}",
        )


def _mismatch(battle_id: int, what: str) -> ReplayMismatchError:
    return ReplayMismatchError(
        f"battle {battle_id} cannot be played again: {what}. The environment, its settings or its "
        "seed are not those of the run"
    )
