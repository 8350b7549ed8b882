"""Battles side by side: what comes out, in which order, and once more from a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.training.counting import EPISODE_LIMIT, CountingEnv, length_of
from training.envs import make_env
from training.envs.base import BatchedEnv
from training.exploration import LinearSchedule
from training.networks.agent import DRQN
from training.rollout import (
    AgentPolicy,
    LoggedPolicy,
    ReplayMismatchError,
    Rollout,
    play_battles,
    rebuild_episodes,
)
from training.types import BattleRecord, Episode, Observation

EnvMaker = Callable[[int], BatchedEnv]


def skirmish(n_envs: int) -> BatchedEnv:
    return make_env("skirmish", "3m", n_envs, seed=3)


def rollout_of(env: BatchedEnv, seed: int = 1) -> Rollout:
    torch.manual_seed(5)
    agent = DRQN(env.info.obs_dim, env.info.n_actions, env.info.n_agents, hidden_dim=8)
    return Rollout(env, AgentPolicy(agent, env.n_envs, LinearSchedule(1.0, 0.5, 100), seed))


def assert_same(one: Episode, other: Episode) -> None:
    for field in dataclasses.fields(Episode):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(left, right), field.name
        assert not isinstance(left, np.ndarray) or left.dtype == right.dtype


def test_an_episode_is_its_own_battle_from_first_to_last_observation() -> None:
    episodes = rollout_of(CountingEnv(n_envs=4)).play(4 * 40)
    for episode in episodes:
        number, length = episode.battle_id, length_of(episode.battle_id)
        assert episode.length == length
        assert episode.state.tolist() == [[number, step] for step in range(length + 1)]
        assert episode.obs[-1].tolist() == [[number, length, 0], [number, length, 1]]
        assert episode.obs.dtype == episode.state.dtype == np.float16
        assert episode.avail_actions[0].tolist() == [[True, True, False]] * 2
        taken = np.take_along_axis(episode.avail_actions[:-1], episode.actions[..., None], axis=2)
        assert taken.all()
        assert episode.reward.tolist() == (number + episode.actions.sum(1)).tolist()
        assert episode.dead_allies == number % 3
        assert episode.dead_enemies == length
        assert episode.battle_won == (number % 2 == 1 and length < EPISODE_LIMIT)
        assert episode.terminal


def test_slots_take_the_next_battle_at_once_and_ends_come_in_order() -> None:
    # Battles 0, 1, 2, 3 last 1, 4, 2, 5 steps; 4 takes slot 0 after the first, for 3 steps; 5 takes
    # slot 2 after the second, for 1 step; 6 follows it there for 4. At the fourth step battles 4
    # (slot 0) and 1 (slot 1) end; battle 3 at the fifth.
    rollout = rollout_of(CountingEnv(n_envs=4))
    ends = [[e.battle_id for e in rollout.play(4)] for _ in range(5)]
    assert ends == [[0], [2], [5], [4, 1], [3]]
    assert rollout.env_steps == 20


def test_play_rounds_up_to_whole_steps_of_all_battles() -> None:
    rollout = rollout_of(CountingEnv(n_envs=4))
    rollout.play(5)
    assert rollout.env_steps == 8


def test_a_time_out_bootstraps_only_if_the_environment_says_so() -> None:
    for continuing in (False, True):
        episodes = rollout_of(CountingEnv(n_envs=3, continuing=continuing)).play(90)
        timed_out = [e for e in episodes if e.length == EPISODE_LIMIT]
        assert timed_out
        assert all(e.terminal != continuing for e in timed_out)
        assert all(e.terminal for e in episodes if e.length < EPISODE_LIMIT)


def test_exploration_follows_the_schedule_and_repeats_by_seed() -> None:
    one, same, other = (rollout_of(CountingEnv(n_envs=2), seed).play(60) for seed in (1, 1, 2))
    actions = [[episode.actions.tolist() for episode in run] for run in (one, same, other)]
    assert actions[0] == actions[1] != actions[2]


def test_memory_and_last_action_begin_afresh_with_a_battle() -> None:
    env = CountingEnv(n_envs=2)
    policy = rollout_of(env).policy
    everywhere = torch.tensor([True, True])
    observation = env.reset(everywhere, torch.tensor([1, 1]))
    policy.begin(everywhere, torch.tensor([1, 1]))
    policy.act(observation)
    policy.begin(torch.tensor([True, False]), torch.tensor([4, 1]))
    state = policy.state_dict()
    assert (state["last_action"][0] == -1).all()
    assert (state["last_action"][1] >= 0).all()
    hidden = state["hidden"].view(2, -1)
    assert not hidden[0].any()
    assert hidden[1].any()


@pytest.mark.parametrize(("make", "steps"), [(CountingEnv, 33), (skirmish, 40)])
def test_a_rollout_goes_on_from_its_state(make: EnvMaker, steps: int) -> None:
    original = rollout_of(make(3))
    original.play(3 * steps)
    saved = original.state_dict()
    expected = original.play(3 * steps)

    resumed = rollout_of(make(3), seed=99)  # its own random state is to be replaced
    resumed.load_state_dict(saved)
    episodes = resumed.play(3 * steps)
    assert len(episodes) == len(expected) > 0
    for one, other in zip(episodes, expected, strict=True):
        assert_same(one, other)


def test_a_state_that_the_environment_no_longer_reproduces_is_refused() -> None:
    original = rollout_of(CountingEnv(n_envs=3))
    original.play(3 * 10)
    resumed = rollout_of(CountingEnv(n_envs=3, scale=2.0))
    with pytest.raises(ReplayMismatchError, match=r"battle \d+ cannot be played again: step 0 pay"):
        resumed.load_state_dict(original.state_dict())


@pytest.mark.parametrize(("make", "steps"), [(CountingEnv, 60), (skirmish, 50)])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_episodes_are_rebuilt_to_the_bit_however_many_at_a_time(
    make: EnvMaker, steps: int, n_envs: int
) -> None:
    episodes = rollout_of(make(4)).play(4 * steps)[:5]
    rebuilt = list(rebuild_episodes(make, [e.record for e in episodes], n_envs))
    for one, other in zip(rebuilt, episodes, strict=True):
        assert_same(one, other)


def test_rebuilding_names_the_battle_that_came_out_differently() -> None:
    log = [episode.record for episode in rollout_of(CountingEnv(4)).play(4 * 20)]
    other_rewards = rebuild_episodes(lambda n: CountingEnv(n, scale=0.5), log[2:])
    with pytest.raises(ReplayMismatchError, match=r"battle \d+ cannot be played again: it returne"):
        list(other_rewards)
    cut_short = dataclasses.replace(log[-1], actions=log[-1].actions[:-1])
    with pytest.raises(ReplayMismatchError, match=f"battle {log[-1].battle_id} cannot be played"):
        list(rebuild_episodes(CountingEnv, [cut_short]))
    unavailable = dataclasses.replace(log[0], actions=np.full_like(log[0].actions, 2))
    with pytest.raises(ReplayMismatchError, match="a logged action is not available now"):
        list(rebuild_episodes(CountingEnv, [unavailable]))
    assert list(rebuild_episodes(CountingEnv, [])) == []


class TakesZero:
    """Always action 0; remembers which battles were announced."""

    def __init__(self) -> None:
        self.announced: list[int] = []

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        self.announced += battle_ids[slots].tolist()

    def act(self, observation: Observation) -> torch.Tensor:
        return torch.zeros(observation.obs.shape[:2], dtype=torch.int64)


def outcome(record: BattleRecord) -> tuple[int, float, int, bool]:
    return record.battle_id, record.episode_return, record.length, record.battle_won


@pytest.mark.parametrize("n_envs", [1, 2, 7])
def test_a_list_of_battles_is_played_in_its_order_whatever_the_number_at_once(n_envs: int) -> None:
    ids = [8, 3, 5, 0, 13, 4, 6]
    policy = TakesZero()
    records = play_battles(CountingEnv(n_envs), policy, ids)
    assert [outcome(record) for record in records] == [
        (n, n * length_of(n), length_of(n), n % 2 == 1 and length_of(n) < EPISODE_LIMIT)
        for n in ids
    ]
    assert policy.announced == ids
    assert all(not record.actions.any() for record in records)


def test_more_battles_at_once_than_there_are_to_play_are_refused() -> None:
    with pytest.raises(ValueError, match="3 battles in parallel, but 2 to play"):
        play_battles(CountingEnv(3), TakesZero(), [1, 2])


def test_logged_battles_of_the_simulator_do_not_depend_on_how_many_are_played_at_once() -> None:
    records = [e.record for e in rollout_of(skirmish(2)).play(2 * 60)]
    logged = {record.battle_id: record for record in records}
    env = skirmish(len(records))
    again = play_battles(env, LoggedPolicy(env, logged), list(logged))
    assert [outcome(record) for record in again] == [outcome(record) for record in records]
