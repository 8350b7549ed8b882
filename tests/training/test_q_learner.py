"""The learner against the padded loop of the published equations, and by hand."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.padded_loop import LoopLearner, pad
from tests.training.episodes import make_batch, make_episode, small_info
from training.algorithms.learner import NonFiniteLossError
from training.algorithms.q_learner import QLearner
from training.config import LearningConfig
from training.replay import ReplayBuffer, replay_size

LENGTHS = (7, 1, 12, 12, 3, 9)
CPU = torch.device("cpu")


def make_learner(seed: int = 0, algo: str = "qmix", **settings: Any) -> QLearner:
    """A learner whose target networks differ from its online ones."""
    torch.manual_seed(seed)
    learner = QLearner(small_info(), algo, LearningConfig(**settings), CPU)
    for parameter in target_parameters(learner):
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return learner


def target_parameters(learner: QLearner) -> list[torch.Tensor]:
    targets = (learner.target_agent, learner.target_mixer)
    return list(itertools.chain(*(module.parameters() for module in targets)))


def backward(loss: torch.Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("algo", ["iql", "vdn", "qmix"])
@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("td_lambda", [0.0, 0.6])
def test_loss_and_gradients_equal_the_padded_loop(
    algo: str, double_q: bool, td_lambda: float
) -> None:
    learner = make_learner(algo=algo, double_q=double_q, td_lambda=td_lambda)
    assert_equals_padded_loop(learner)


def test_one_layer_hypernetworks_equal_the_padded_loop() -> None:
    assert_equals_padded_loop(make_learner(hypernet_layers=1))


def assert_equals_padded_loop(learner: QLearner) -> None:
    loop = LoopLearner(learner)
    batch = make_batch(LENGTHS)
    loss, _ = learner.loss(batch)
    backward(loss)
    loop_loss = loop.loss(pad(batch))
    backward(loop_loss)
    torch.testing.assert_close(loss, loop_loss, rtol=1e-5, atol=1e-6)
    ours, theirs = learner.gradients(), loop.gradients()
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_several_steps_of_training_follow_the_padded_loop() -> None:
    learner = make_learner()
    loop = LoopLearner(learner)
    for seed in range(5):
        batch = make_batch(LENGTHS, seed)
        stats = learner.train(batch, n_episodes=0)
        loss, norm = loop.train(pad(batch))
        assert float(stats["loss"]) == pytest.approx(loss, rel=1e-4)
        assert float(stats["grad_norm"]) == pytest.approx(norm, rel=1e-4)


def test_the_order_of_the_episodes_does_not_change_the_loss() -> None:
    learner, rng = make_learner(td_lambda=0.5), np.random.default_rng(0)
    buffer = ReplayBuffer(small_info(), replay_size(small_info(), 4), rng)
    buffer.add(make_episode(small_info(), length, rng) for length in (5, 5, 2, 5))
    first = learner.loss(buffer.gather(np.array([0, 1, 2, 3])))[0]
    second = learner.loss(buffer.gather(np.array([3, 2, 1, 0])))[0]
    torch.testing.assert_close(first, second)


def test_statistics_are_those_of_the_steps() -> None:
    """VDN with every weight zero: all values are the last layer's bias, 0.5."""
    learner = make_learner(algo="vdn", gamma=0.9)
    with torch.no_grad():
        for parameter in [*learner.agent.parameters(), *learner.target_agent.parameters()]:
            parameter.zero_()
        learner.agent.fc2.bias.fill_(0.5)
        learner.target_agent.fc2.bias.fill_(1.0)
    batch = dataclasses.replace(
        make_batch((2,)), reward=torch.tensor([1.0, 7.0]), terminal=torch.tensor([False, True])
    )
    # Three agents: Q_tot = 1.5. Targets: 1 + 0.9 * 3 = 3.7 and 7. Errors: -2.2 and -5.5.
    loss, stats = learner.loss(batch)
    assert float(loss.detach()) == pytest.approx((2.2**2 + 5.5**2) / 2, rel=1e-6)
    assert float(stats["td_error_abs"]) == pytest.approx((2.2 + 5.5) / 2, rel=1e-6)
    assert float(stats["q_taken_mean"]) == pytest.approx(1.5 / 3)
    assert float(stats["target_mean"]) == pytest.approx((3.7 + 7) / 2 / 3, rel=1e-6)


def test_a_time_out_bootstraps_only_where_the_episode_does_not_count_as_ended() -> None:
    learner = make_learner()
    batch = make_batch((3,))
    going_on = dataclasses.replace(batch, terminal=torch.zeros(3, dtype=torch.bool))
    ended = dataclasses.replace(batch, terminal=torch.tensor([False, False, True]))
    other_end = batch.obs.clone()
    other_end[-1] += 1.0
    for kind, reads_the_end in ((going_on, True), (ended, False)):
        changed = dataclasses.replace(kind, obs=other_end)
        before, after = learner.loss(kind)[0], learner.loss(changed)[0]
        assert (float(before.detach()) != float(after.detach())) == reads_the_end


def test_unavailable_actions_are_never_the_next_ones() -> None:
    """Were the target agent's only huge value reachable, the loss would show it."""
    learner = make_learner(algo="vdn", double_q=False)
    with torch.no_grad():
        learner.target_agent.fc2.bias[4] = 1e6
    batch = make_batch((4, 3))
    batch.avail_actions[:, :, 4] = False
    batch.avail_actions[:, :, 0] = True
    assert float(learner.loss(batch)[0].detach()) < 1e3


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_state_dict_holds_all_that_the_next_steps_need(optimizer: str) -> None:
    settings: dict[str, Any] = {"optimizer": optimizer, "target_update_interval": 2}
    learner = make_learner(**settings)
    for seed in range(3):
        learner.train(make_batch(LENGTHS, seed), n_episodes=seed)
    resumed = make_learner(seed=1, **settings)
    resumed.load_state_dict(copy.deepcopy(learner.state_dict()))
    for seed in range(3, 6):
        for each in (learner, resumed):
            each.train(make_batch(LENGTHS, seed), n_episodes=seed)
    assert resumed.gradient_steps == 6
    ours = [*resumed.parameters, *target_parameters(resumed)]
    theirs = [*learner.parameters, *target_parameters(learner)]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_targets_follow_after_so_many_episodes() -> None:
    learner = make_learner(target_update_interval=200)
    batch = make_batch(LENGTHS)
    followed = []
    for n_episodes in (199, 200, 399, 400):
        learner.train(batch, n_episodes)
        pairs = zip(learner.parameters, target_parameters(learner), strict=True)
        followed.append(all(torch.equal(online, target) for online, target in pairs))
    assert followed == [False, True, False, True]


def test_targets_follow_after_so_many_gradient_steps() -> None:
    learner = make_learner(target_update_interval=3, target_update_unit="gradient_steps")
    batch = make_batch(LENGTHS)
    followed = []
    for _ in range(6):
        learner.train(batch, n_episodes=0)
        pairs = zip(learner.parameters, target_parameters(learner), strict=True)
        followed.append(all(torch.equal(online, target) for online, target in pairs))
    assert followed == [False, False, True, False, False, True]


def test_the_gradient_is_clipped_by_its_global_norm() -> None:
    learner = make_learner(grad_norm_clip=0.01)
    stats = learner.train(make_batch(LENGTHS), n_episodes=0)
    clipped = torch.cat([grad.flatten() for grad in learner.gradients().values()]).norm()
    assert float(stats["grad_norm"]) > 0.01
    assert float(clipped) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(poison: float) -> None:
    learner = make_learner()
    learner.train(make_batch(LENGTHS), n_episodes=0)
    before = copy.deepcopy(learner.state_dict())
    batch = make_batch(LENGTHS)
    batch.reward[3] = poison
    with pytest.raises(NonFiniteLossError, match="gradient step 2: loss"):
        learner.train(batch, n_episodes=1000)
    after = learner.state_dict()
    assert after["gradient_steps"] == 1
    for part in ("agent", "mixer", "target_agent", "target_mixer"):
        for name, value in before[part].items():
            assert torch.equal(value, after[part][name]), name
    for index, state in before["optimiser"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, after["optimiser"]["state"][index][name])


def test_the_target_networks_get_no_gradient() -> None:
    learner = make_learner()
    learner.train(make_batch(LENGTHS), n_episodes=0)
    assert all(parameter.grad is None for parameter in target_parameters(learner))
