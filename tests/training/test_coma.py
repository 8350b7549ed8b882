"""COMA against a loop over episodes, steps and agents, and by hand."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training import slow_coma
from tests.training.episodes import make_batch, small_info
from training.algorithms.coma import COMALearner, actions_at, advantages
from training.algorithms.learner import NonFiniteLossError
from training.config import LearningConfig
from training.networks.critic import COMACritic
from training.types import EpisodeBatch

LENGTHS = (7, 1, 12, 12, 3, 9)  # every third ends by running out of time, and bootstraps
EPSILON = 0.3
CPU = torch.device("cpu")
Place = tuple[int, int, int]


def make_learner(seed: int = 0, **settings: Any) -> COMALearner:
    """A learner whose target critic differs from its critic."""
    torch.manual_seed(seed)
    config = LearningConfig(**({"td_lambda": 0.8} | settings))
    learner = COMALearner(small_info(), config, lambda env_steps: EPSILON, CPU)
    with torch.no_grad():
        for parameter in learner.target_critic.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return learner


def slow_values(critic: COMACritic, batch: EpisodeBatch, actions: Tensor) -> dict[Place, Tensor]:
    """(episode, step, agent) -> [U], at all observations."""
    values = {}
    rows = slow_coma.rows_of(batch)
    for (episode, t), row in rows.items():
        last = None if t == 0 else actions[rows[episode, t - 1]]
        for a in range(critic.n_agents):
            values[episode, t, a] = slow_coma.critic_values(
                critic, batch.state[row], batch.obs[row, a], a, actions[row], last
            )
    return values


def slow_targets(learner: COMALearner, batch: EpisodeBatch) -> dict[Place, float]:
    logits = slow_coma.logits_of(learner.agent, batch)
    rows, steps = slow_coma.rows_of(batch), slow_coma.steps_of(batch)
    actions = torch.zeros(len(batch.obs), 3, dtype=torch.int64)
    for (episode, t), row in rows.items():
        for a in range(3):
            taken = t < batch.lengths[episode]
            likeliest = logits[episode, t, a].masked_fill(~batch.avail_actions[row, a], -torch.inf)
            step = batch.actions[steps[episode, t], a] if taken else likeliest.argmax()
            actions[row, a] = step
    values = slow_values(learner.target_critic, batch, actions)
    targets = {}
    for episode, length in enumerate(batch.lengths):
        places = [steps[episode, t] for t in range(length)]
        rewards = batch.reward[places].tolist()
        ended = bool(batch.terminal[places[-1]])
        for a in range(3):
            after = [
                float(values[episode, t, a][actions[rows[episode, t], a]])
                for t in range(1, length + 1)
            ]
            if ended:
                after[-1] = 0.0
            for t in range(length):
                targets[episode, t, a] = slow_coma.lambda_return(
                    rewards[t:], after[t:], learner.config.gamma, learner.config.td_lambda
                )
    return targets


@pytest.mark.parametrize("td_lambda", [0.0, 0.8, 1.0])
@torch.no_grad()
def test_targets_equal_a_loop_over_n_step_returns(td_lambda: float) -> None:
    learner, batch = make_learner(td_lambda=td_lambda), make_batch(LENGTHS)
    expected = slow_targets(learner, batch)
    actions = actions_at(batch, learner.agent.unroll(batch))
    targets = learner.targets(batch, learner.critic.read(batch, actions))
    assert targets.shape == (sum(LENGTHS), 3)
    for (episode, t), step in slow_coma.steps_of(batch).items():
        for a in range(3):
            assert float(targets[step, a]) == pytest.approx(expected[episode, t, a], abs=1e-4)


def test_one_batch_of_training_equals_a_loop() -> None:
    """The critic's steps one by one, backwards in time, then the policy's."""
    learner, batch = make_learner(), make_batch(LENGTHS)
    slow = copy.deepcopy(learner)
    stats = learner.train(batch, n_episodes=8)

    rows, steps = slow_coma.rows_of(batch), slow_coma.steps_of(batch)
    with torch.no_grad():
        targets = slow_targets(slow, batch)
    at_rows = batch.actions.new_zeros(len(batch.obs), 3)
    at_rows[batch.step_rows] = batch.actions
    used: dict[Place, Tensor] = {}
    losses = []
    for t in reversed(range(max(LENGTHS))):
        values = slow_values(slow.critic, batch, at_rows)
        now = [(e, t, a) for (e, when) in steps if when == t for a in range(3)]
        errors = [
            values[place][batch.actions[steps[place[:2]], place[2]]] - targets[place]
            for place in now
        ]
        loss = torch.stack([error**2 for error in errors]).mean()
        slow.critic_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(slow.critic.parameters(), slow.config.grad_norm_clip)
        slow.critic_optimiser.step()
        used |= {place: values[place].detach() for place in now}
        losses.append(float(loss.detach()))
    assert float(stats["critic_loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert_same_weights(learner.critic, slow.critic)

    logits = slow_coma.logits_of(slow.agent, batch)
    terms = []
    for episode, t, a in used:
        row, step = rows[episode, t], steps[episode, t]
        chances = slow_coma.probabilities(
            logits[episode, t, a], batch.avail_actions[row, a], EPSILON
        )
        taken = batch.actions[step, a]
        values_here = used[episode, t, a].tolist()
        baseline = sum(p * q for p, q in zip(chances.tolist(), values_here, strict=True))
        advantage = values_here[taken] - baseline
        terms.append(-advantage * chances[taken].log())
    loss = torch.stack(terms).mean()
    assert float(stats["coma_loss"]) == pytest.approx(float(loss.detach()), abs=1e-5)
    slow.agent_optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    ours = [p.grad for p in learner.agent.parameters()]
    theirs = [p.grad for p in slow.agent.parameters()]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def test_the_advantage_by_hand() -> None:
    policy = torch.tensor([[[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]])
    q_values = torch.tensor([[[4.0, 8.0, -2.0], [3.0, 99.0, -99.0]]])
    # The average is 2 + 2 - 0.5 = 3.5, so action 1 was worth 4.5 more. Who has one choice has none.
    advantage = advantages(policy, q_values, torch.tensor([[1, 0]]))
    assert advantage.tolist() == [[4.5, 0.0]]


def with_a_dead_agent(batch: EpisodeBatch) -> EpisodeBatch:
    """Agent 1 sees nothing and has action 0 alone, at every step."""
    obs, available, actions = batch.obs.clone(), batch.avail_actions.clone(), batch.actions.clone()
    obs[:, 1], actions[:, 1] = 0.0, 0
    available[:, 1] = torch.arange(5) == 0
    return dataclasses.replace(batch, obs=obs, avail_actions=available, actions=actions)


def test_a_dead_agent_teaches_the_policy_nothing() -> None:
    learner, batch = make_learner(), with_a_dead_agent(make_batch(LENGTHS))
    logits = learner.agent.unroll(batch).detach().requires_grad_()
    q_values = 10 * torch.randn(sum(LENGTHS), 3, 5)
    loss, _ = learner.policy_loss(batch, logits, q_values, EPSILON)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad[:, 1].any()
    assert logits.grad[:, 0].any()


def test_a_dead_agent_counts_for_the_critic_as_in_pymarl() -> None:
    learner, batch = make_learner(lr=1e-9), with_a_dead_agent(make_batch((3,)))
    before = copy.deepcopy(learner.critic)
    learner.train(batch, n_episodes=1)
    ids = slice(-3, None)  # fc1's last columns are the agents'
    moved = (learner.critic.fc1.weight[:, ids] - before.fc1.weight[:, ids]).abs().sum(0)
    assert (moved > 0).all()


def test_an_episodes_end_teaches_nothing() -> None:
    """No step was taken at the last observation: neither its mask nor its logits matter to the
    policy, and of a decided battle the critic does not read it either."""
    learner, batch = make_learner(), make_batch((4, 2))
    batch = dataclasses.replace(batch, terminal=torch.tensor([0, 0, 0, 1, 0, 1]).bool())
    ends = torch.ones(len(batch.obs)).bool()
    ends[batch.step_rows] = False
    assert ends.sum() == 2
    obs, state, available = (v.clone() for v in (batch.obs, batch.state, batch.avail_actions))
    obs[ends], state[ends], available[ends] = 7.0, 7.0, True
    changed = dataclasses.replace(batch, obs=obs, state=state, avail_actions=available)
    other = copy.deepcopy(learner)
    learner.train(batch, n_episodes=2)
    other.train(changed, n_episodes=2)
    for one, two in ((learner.agent, other.agent), (learner.critic, other.critic)):
        for left, right in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(left, right)


def test_a_long_episode_beside_it_changes_nothing_of_a_short_ones_part() -> None:
    """Nothing is padded: the loss is the mean over both episodes' own steps."""
    learner = make_learner()
    both = make_batch((2, 9), seed=4)
    logits = torch.randn(len(both.obs), 3, 5)
    q_values = torch.randn(11, 3, 5)
    loss = learner.policy_loss(both, logits, q_values, EPSILON)[0]
    steps, rows = slow_coma.steps_of(both), slow_coma.rows_of(both)
    total = torch.tensor(0.0)
    for (episode, t), step in steps.items():
        for a in range(3):
            row = rows[episode, t]
            chances = slow_coma.probabilities(logits[row, a], both.avail_actions[row, a], EPSILON)
            taken, q = both.actions[step, a], q_values[step, a]
            total -= (q[taken] - (chances * q).sum()) * chances[taken].log()
    torch.testing.assert_close(loss, total / (11 * 3))


def test_the_target_critic_follows_after_so_many_critic_steps() -> None:
    learner = make_learner(target_update_interval=20)
    followed = []
    for seed in range(4):  # 12 critic steps each: due at 24, and then at 48
        learner.train(make_batch(LENGTHS, seed), n_episodes=0)
        pairs = zip(learner.critic.parameters(), learner.target_critic.parameters(), strict=True)
        followed.append(all(torch.equal(online, target) for online, target in pairs))
    assert learner.critic_steps == 48
    assert followed == [False, True, False, True]


def test_epsilon_is_that_of_the_step_at_which_the_batch_began() -> None:
    asked = []

    def epsilon(env_steps: int) -> float:
        asked.append(env_steps)
        return 0.1

    learner = COMALearner(small_info(), LearningConfig(), epsilon, CPU)
    for lengths in ((3, 2), (5, 1), (4, 4)):
        learner.train(make_batch(lengths), n_episodes=0)
    assert asked == [0, 5, 11]


def test_state_dict_holds_all_that_the_next_steps_need() -> None:
    learner = make_learner(target_update_interval=20)
    for seed in range(3):
        learner.train(make_batch(LENGTHS, seed), n_episodes=0)
    resumed = make_learner(seed=1, target_update_interval=20)
    resumed.load_state_dict(copy.deepcopy(learner.state_dict()))
    for seed in range(3, 6):
        for each in (learner, resumed):
            each.train(make_batch(LENGTHS, seed), n_episodes=0)
    assert (resumed.gradient_steps, resumed.critic_steps) == (6, 72)
    assert_equal_states(resumed.state_dict(), learner.state_dict())


def assert_equal_states(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal_states(one[key], other[key])
    else:
        assert one == other


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_not_taken(poison: float) -> None:
    learner = make_learner()
    learner.train(make_batch(LENGTHS), n_episodes=0)
    batch = make_batch(LENGTHS)
    batch.reward[-1] = poison  # the last time step, which the critic comes to first
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(NonFiniteLossError, match="gradient step 2: loss"):
        learner.train(batch, n_episodes=0)
    assert_equal_states(before, learner.state_dict())


def test_only_agent_and_critic_learn() -> None:
    learner = make_learner()
    learner.train(make_batch(LENGTHS), n_episodes=0)
    assert all(parameter.grad is None for parameter in learner.target_critic.parameters())
    assert all(parameter.grad is not None for parameter in learner.critic.parameters())
