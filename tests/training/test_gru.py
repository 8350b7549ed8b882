"""The packed GRU against torch's cell, one step after another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.networks.gru import library_gru, packed_gru

WIDTHS = [5, 5, 3, 3, 1, 1, 1]
N_INPUTS, N_HIDDEN = 4, 6


def previous_rows(widths: list[int]) -> Tensor:
    """For every row after the first step its sequence's row one step before."""
    starts = [sum(widths[:t]) for t in range(len(widths))]
    return torch.cat(
        [torch.arange(starts[t - 1], starts[t - 1] + widths[t]) for t in range(1, len(widths))]
        or [torch.empty(0, dtype=torch.int64)]
    )


def stepped(x: Tensor, widths: list[int], cell: torch.nn.GRUCell) -> Tensor:
    hidden, states = x.new_zeros(widths[0], cell.hidden_size), []
    for rows in x.split(widths):  # type: ignore[no-untyped-call]
        hidden = cell(rows, hidden[: len(rows)])
        states.append(hidden)
    return torch.cat(states)


@pytest.mark.parametrize("widths", [WIDTHS, [4], [2, 2, 2], [3, 1]])
def test_states_and_gradients_equal_the_stepped_cell(widths: list[int]) -> None:
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(N_INPUTS, N_HIDDEN).double()
    x = torch.randn(sum(widths), N_INPUTS, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(sum(widths), N_HIDDEN, dtype=torch.float64)
    inputs = [x, *cell.parameters()]
    expected = stepped(x, widths, cell)
    expected_grads = torch.autograd.grad(expected, inputs, direction)
    for states in (
        packed_gru(x, widths, previous_rows(widths), cell),
        library_gru(x, widths, cell),
    ):
        torch.testing.assert_close(states, expected)
        grads = torch.autograd.grad(states, inputs, direction)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, expected_grad)


def test_large_inputs_saturate_without_nan() -> None:
    cell = torch.nn.GRUCell(N_HIDDEN, N_HIDDEN)
    x = torch.full((sum(WIDTHS), N_HIDDEN), 1e6).requires_grad_()
    states = packed_gru(x, WIDTHS, previous_rows(WIDTHS), cell)
    states.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(states, stepped(x, WIDTHS, cell))
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_inputs_that_need_no_gradient_get_none() -> None:
    cell = torch.nn.GRUCell(N_HIDDEN, N_HIDDEN)
    x = torch.randn(sum(WIDTHS), N_HIDDEN)
    packed_gru(x, WIDTHS, previous_rows(WIDTHS), cell).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is None
    assert cell.weight_ih.grad is not None
