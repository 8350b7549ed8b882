"""COMA's probabilities by hand, and the actions drawn by them."""

from __future__ import annotations

import math

import pytest
import torch

from training.sampling import action_probabilities, pick, sample_actions

# Softmax of these logits over all four actions: 1/10, 2/10, 3/10, 4/10.
LOGITS = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()
ALL = torch.tensor([True, True, True, True])


@pytest.mark.parametrize(
    ("available", "epsilon", "expected"),
    [
        (ALL, 0.0, [0.1, 0.2, 0.3, 0.4]),
        # The floor is 0.4 / 4: 0.06 + 0.1, 0.12 + 0.1, 0.18 + 0.1, 0.24 + 0.1.
        (ALL, 0.4, [0.16, 0.22, 0.28, 0.34]),
        (ALL, 1.0, [0.25, 0.25, 0.25, 0.25]),
        # The same before the first and the last are left out: 0.22 and 0.28 of 0.5.
        (torch.tensor([False, True, True, False]), 0.4, [0.0, 0.44, 0.56, 0.0]),
        (torch.tensor([False, False, False, True]), 0.4, [0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_probabilities_by_hand(
    available: torch.Tensor, epsilon: float, expected: list[float]
) -> None:
    probabilities = action_probabilities(LOGITS, available, epsilon)
    torch.testing.assert_close(probabilities, torch.tensor(expected))


def test_what_is_available_can_always_be_taken_however_low_its_logit() -> None:
    logits, available = torch.tensor([1e4, -1e4, -1e4]), torch.tensor([False, True, True])
    assert action_probabilities(logits, available, 0.0).tolist() == [0.0, 0.5, 0.5]


def test_the_only_available_action_has_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    available = torch.tensor([True, False, False, False])
    action_probabilities(logits, available, 0.1)[0].log().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(4), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("draw", "action"), [(0.0, 1), (0.43, 1), (0.45, 2), (0.99, 2), (1 - 2**-53, 2)]
)
def test_a_draw_points_at_an_action_that_is_possible(draw: float, action: int) -> None:
    probabilities = torch.tensor([0.0, 0.44, 0.56, 0.0])
    assert int(pick(probabilities, torch.tensor(draw, dtype=torch.float64))) == action


@pytest.mark.parametrize("tiny", [1e-30, 1e-38])
def test_chances_need_not_add_up_to_one(tiny: float) -> None:
    probabilities = torch.tensor([[0.0, tiny, 0.0], [0.0, 0.0, 3.0]])
    for draw in (0.0, 0.5, 1 - 2**-53):
        assert pick(probabilities, torch.full((2,), draw, dtype=torch.float64)).tolist() == [1, 2]


def test_actions_come_as_often_as_their_probabilities_say() -> None:
    n = 40_000
    probabilities = action_probabilities(LOGITS, ALL, 0.4).expand(n, 4)
    actions = sample_actions(probabilities, torch.Generator().manual_seed(0))
    counts = torch.bincount(actions, minlength=4).tolist()
    for count, chance in zip(counts, (0.16, 0.22, 0.28, 0.34), strict=True):
        assert abs(count - n * chance) < 5 * math.sqrt(n * chance * (1 - chance))
    again = sample_actions(probabilities, torch.Generator().manual_seed(0))
    assert torch.equal(actions, again)
