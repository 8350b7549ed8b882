"""The QMIX paper's two-step game: its payoffs, and the batched protocol."""

from __future__ import annotations

import pytest
import torch

from training.envs import make_env
from training.envs.base import UnavailableActionError
from training.envs.two_step import TwoStepEnv

A, B = 0, 1


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((A, A), (A, A), 7.0),
        ((A, B), (A, B), 7.0),
        ((A, A), (B, A), 7.0),
        ((A, B), (B, B), 7.0),
        ((B, A), (A, A), 0.0),
        ((B, B), (A, B), 1.0),
        ((B, A), (B, A), 1.0),
        ((B, B), (B, B), 8.0),
    ],
)
def test_payoffs(first: tuple[int, int], second: tuple[int, int], expected: float) -> None:
    env = TwoStepEnv()
    env.reset()
    opening = env.step(torch.tensor([first]))
    assert opening.reward.tolist() == [0.0]
    assert opening.terminated.tolist() == [False]
    ending = env.step(torch.tensor([second]))
    assert ending.reward.tolist() == [expected]
    assert ending.terminated.tolist() == [True]
    assert ending.truncated.tolist() == [False]
    assert ending.battle_won.tolist() == [expected == 8.0]


def test_every_agent_sees_the_state_that_the_first_agent_chose() -> None:
    env = TwoStepEnv(n_envs=2)
    start = env.reset()
    assert start.obs.tolist() == [[[1, 0, 0]] * 2] * 2
    after = env.step(torch.tensor([[A, B], [B, A]])).observation
    assert after.obs.tolist() == [[[0, 1, 0]] * 2, [[0, 0, 1]] * 2]
    assert after.state.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert after.avail_actions.all()
    over = env.step(torch.zeros(2, 2, dtype=torch.int64)).observation
    assert not over.obs.any()


def test_a_battle_that_has_ended_stands_still_until_it_is_reset() -> None:
    env = TwoStepEnv(n_envs=2)
    env.reset()
    actions = torch.tensor([[B, B], [B, B]])
    env.step(actions)
    env.step(actions)
    again = env.step(torch.tensor([[99, 99], [B, B]]))  # ignored, so it may be anything
    assert again.reward.tolist() == [0, 0]
    assert again.terminated.tolist() == [True, True]
    assert again.battle_won.tolist() == [False, False]
    now = env.reset(torch.tensor([True, False]))
    assert now.state.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_an_unavailable_action_is_named_and_nothing_moves() -> None:
    env = TwoStepEnv(n_envs=2)
    env.reset(battle_ids=torch.tensor([40, 41]))
    with pytest.raises(UnavailableActionError, match="battle 41: agent 1 was given action 2"):
        env.step(torch.tensor([[A, A], [A, 2]]))
    assert env.step(torch.tensor([[A, A], [B, A]])).observation.state.argmax(-1).tolist() == [1, 2]


def test_state_dict_goes_on_from_the_same_place() -> None:
    env, other = TwoStepEnv(n_envs=3), TwoStepEnv(n_envs=3)
    env.reset()
    env.step(torch.tensor([[A, A], [B, A], [B, B]]))
    saved = env.state_dict()
    env.step(torch.tensor([[B, B]] * 3))
    other.load_state_dict(saved)
    assert other.step(torch.tensor([[B, B]] * 3)).reward.tolist() == [7, 8, 8]


def test_make_env_names_the_nearest_mistake() -> None:
    with pytest.raises(ValueError, match="no environment is called 'twostep'; did you mean 'two_s"):
        make_env("twostep", None, 1)
    with pytest.raises(ValueError, match="two_step has no setting 'step_mul'"):
        make_env("two_step", None, 1, step_mul=8)
    with pytest.raises(ValueError, match="one map, 'two_step'; got '3m'"):
        make_env("two_step", "3m", 1)
    with pytest.raises(ValueError, match="at least one battle"):
        make_env("two_step", None, 0)
    with pytest.raises(ValueError, match="3s5z"):
        make_env("skirmish", "3s5x", 1)
