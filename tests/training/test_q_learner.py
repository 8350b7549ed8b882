"""The learner against the padded loop of the published equations, and by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from benchmarks.padded_loop import LoopLearner, pad
from tests.training.episodes import make_episode, small_info
from training.algorithms.q_learner import LearnerConfig, QLearner
from training.replay import ReplayBuffer, replay_size
from training.types import EpisodeBatch

LENGTHS = (7, 1, 12, 12, 3, 9)
CPU = torch.device("cpu")


def make_batch(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> EpisodeBatch:
    """Episodes of these lengths; every third ends by running out of time, and bootstraps."""
    rng = np.random.default_rng(seed)
    info = small_info()
    buffer = ReplayBuffer(info, replay_size(info, len(lengths)), rng)
    buffer.add(
        make_episode(info, length, rng, terminal=i % 3 != 2) for i, length in enumerate(lengths)
    )
    return buffer.gather(np.arange(len(lengths)))


def make_learner(seed: int = 0, **settings: object) -> QLearner:
    """A learner whose target networks differ from its online ones."""
    torch.manual_seed(seed)
    config = dataclasses.replace(LearnerConfig(), **settings)  # type: ignore[arg-type]
    learner = QLearner(small_info(), config, CPU)
    for parameter in itertools.chain(
        learner.target_agent.parameters(), learner.target_mixer.parameters()
    ):
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return learner


@pytest.mark.parametrize("mixer", ["iql", "vdn", "qmix"])
@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("td_lambda", [0.0, 0.6])
def test_loss_and_gradients_equal_the_padded_loop(
    mixer: str, double_q: bool, td_lambda: float
) -> None:
    learner = make_learner(mixer=mixer, double_q=double_q, td_lambda=td_lambda)
    loop = LoopLearner(learner)
    batch = make_batch()
    loss, _ = learner.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    loop_loss = loop.loss(pad(batch))
    loop_loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, loop_loss, rtol=1e-5, atol=1e-6)
    ours, theirs = learner.gradients(), loop.gradients()
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-4, atol=1e-6, msg=name)
