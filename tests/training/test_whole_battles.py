"""Batches of whole battles: which ones, with what weights, and on from a state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.training.counting import EPISODE_LIMIT, CountingEnv, length_of
from training.algorithms.coma import COMALearner
from training.config import LearningConfig
from training.envs import make_env
from training.envs.base import BatchedEnv
from training.exploration import LinearSchedule
from training.networks.agent import DRQN
from training.replay import ReplayBuffer, replay_size
from training.rollout import rebuild_episodes
from training.sampling import action_probabilities
from training.types import Episode, Observation
from training.whole_battles import SamplingPolicy, WholeBattles

EPSILON = LinearSchedule(0.5, 0.1, 100)


def skirmish(n_envs: int) -> BatchedEnv:
    return make_env("skirmish", "3m", n_envs, seed=3)


def whole_battles(env: BatchedEnv, n_battles: int = 6, seed: int = 1) -> WholeBattles:
    torch.manual_seed(5)
    agent = DRQN(env.info.obs_dim, env.info.n_actions, env.info.n_agents, hidden_dim=8)
    return WholeBattles(env, SamplingPolicy(agent, env.n_envs, seed), n_battles, EPSILON)


def assert_same(one: Episode, other: Episode) -> None:
    for field in dataclasses.fields(Episode):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("n_envs", [1, 4, 6])
def test_a_batch_is_the_next_battles_whole_and_in_order(n_envs: int) -> None:
    playing = whole_battles(CountingEnv(n_envs))
    for first in (0, 6, 12):
        before = playing.env_steps
        episodes = playing.play(1)
        ids = list(range(first, first + 6))
        assert [episode.battle_id for episode in episodes] == ids
        for episode in episodes:
            length = length_of(episode.battle_id)
            assert episode.length == length
            assert episode.state.tolist() == [[episode.battle_id, t] for t in range(length + 1)]
            assert episode.reward.tolist() == (episode.battle_id + episode.actions.sum(1)).tolist()
        # A slot that waits for the longest battle of the batch takes no steps.
        assert playing.env_steps - before == sum(length_of(number) for number in ids)


def test_no_steps_are_no_batch() -> None:
    playing = whole_battles(CountingEnv(2))
    assert playing.play(0) == []
    assert playing.env_steps == 0
    assert playing.play(1)[0].battle_id == 0


def test_a_time_out_bootstraps_only_if_the_environment_says_so() -> None:
    for continuing in (False, True):
        episodes = whole_battles(CountingEnv(3, continuing=continuing)).play(1)
        timed_out = [e for e in episodes if e.length == EPISODE_LIMIT]
        assert timed_out
        assert all(e.terminal != continuing for e in timed_out)


class Watched(SamplingPolicy):
    """Remembers the floor and the chances at every step."""

    def __init__(self, env: BatchedEnv) -> None:
        torch.manual_seed(5)
        info = env.info
        agent = DRQN(info.obs_dim, info.n_actions, info.n_agents, hidden_dim=8)
        super().__init__(agent, env.n_envs, seed=1)
        self.floors: list[float] = []
        self.chances: list[torch.Tensor] = []

    def act(self, observation: Observation) -> torch.Tensor:
        actions = super().act(observation)
        assert self.q_values is not None
        self.floors.append(self.epsilon)
        self.chances.append(
            action_probabilities(self.q_values, observation.avail_actions, self.epsilon)
        )
        return actions


def test_epsilon_stays_the_same_within_a_batch() -> None:
    env = CountingEnv(6)
    policy = Watched(env)
    playing = WholeBattles(env, policy, 6, EPSILON)
    playing.play(1)
    steps = sum(length_of(number) for number in range(6))
    assert policy.floors == [0.5] * 5
    playing.play(1)
    assert policy.floors[5:] == [EPSILON(steps)] * 5 != [0.5] * 5


def test_the_learner_gives_every_action_the_chance_that_it_was_drawn_with() -> None:
    """What makes it on-policy: one network, one ε, one memory, seen from both sides."""
    env = make_env("two_step", None, 4)  # float16 keeps its observations to the bit
    policy = Watched(env)
    playing = WholeBattles(env, policy, 4, EPSILON)
    learner = COMALearner(env.info, LearningConfig(rnn_hidden_dim=8), EPSILON, env.device)
    learner.agent = policy.agent
    for _ in range(2):
        policy.chances.clear()
        episodes = playing.play(1)
        buffer = ReplayBuffer(env.info, replay_size(env.info, 4), np.random.default_rng(0))
        buffer.add(episodes)
        batch = buffer.gather(np.arange(4))
        rows = batch.step_rows
        logits, available = learner.agent.unroll(batch)[rows], batch.avail_actions[rows]
        epsilon = EPSILON(playing.env_steps - batch.n_steps)
        # Both steps of four games in time order, on either side.
        theirs = action_probabilities(logits, available, epsilon)
        torch.testing.assert_close(theirs, torch.cat(policy.chances))


@pytest.mark.parametrize("make", [CountingEnv, skirmish])
def test_it_goes_on_from_its_state(make: Callable[[int], BatchedEnv]) -> None:
    original = whole_battles(make(3))
    original.play(1)
    saved = original.state_dict()
    expected = original.play(1)
    resumed = whole_battles(make(3), seed=99)  # its own random state is to be replaced
    resumed.load_state_dict(saved)
    episodes = resumed.play(1)
    assert resumed.env_steps == original.env_steps
    for one, other in zip(episodes, expected, strict=True):
        assert_same(one, other)


def test_its_battles_are_rebuilt_from_their_log() -> None:
    episodes = whole_battles(skirmish(3)).play(1)
    rebuilt = rebuild_episodes(skirmish, [episode.record for episode in episodes], n_envs=2)
    for one, other in zip(rebuilt, episodes, strict=True):
        assert_same(one, other)


def test_a_batch_smaller_than_the_battles_side_by_side_is_refused() -> None:
    with pytest.raises(ValueError, match="3 battles in parallel, but 2 to play"):
        whole_battles(CountingEnv(3), n_battles=2).play(1)
