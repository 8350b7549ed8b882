"""A GRU over ragged sequences that lie packed: forward and backward without a padded step.

Equations (torch's GRUCell; Cho et al. 2014), with r, z, n the reset gate, update gate and
candidate, and σ the logistic function:

    r = σ(W_ir x + b_ir + W_hr h + b_hr)        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    z = σ(W_iz x + b_iz + W_hz h + b_hz)        h' = n + z * (h - n)

On a CPU most of a GRU's time in torch is not arithmetic that has to be. Its backward adds to the
weights' gradients at every step; here each is one product over all steps at the end. Its tanh costs
three times a logistic function; here tanh(a) = 2 σ(2a) - 1. And gates are computed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def packed_gru(
    x: Tensor, widths: Sequence[int], previous_rows: Tensor, cell: torch.nn.GRUCell
) -> Tensor:
    """The hidden states of sequences that start from zeros.

    Args:
        x: [R, I] inputs in time order: `widths[0]` rows of the first step, then the second's...
        widths: how many sequences are still running at each step; never rises, and sequence i at
            one step goes on in row i of the next. Sums to R.
        previous_rows: [R - widths[0]] int64, for every row after the first step the row of the
            same sequence one step before.

    Returns:
        [R, H], the state after each input.
    """
    weights = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    if x.is_cuda:
        return library_gru(x, widths, cell)
    return _PackedGRU.apply(x, *weights, tuple(widths), previous_rows)  # type: ignore[no-any-return,no-untyped-call]


def library_gru(x: Tensor, widths: Sequence[int], cell: torch.nn.GRUCell) -> Tensor:
    """The same by torch's own GRU. cuDNN knows this layout (it is a PackedSequence's) and is fast;
    on a CPU the backward pass takes time that grows with the square of the length."""
    weights = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    zeros = x.new_zeros(1, widths[0], cell.hidden_size)
    batch_sizes = torch.tensor(widths)
    return torch._VF.gru(x, batch_sizes, zeros, weights, True, 1, 0.0, True, False)[0]


class _PackedGRU(torch.autograd.Function):
    """`gates` holds r, z and n side by side; every [R, ...] tensor is also a list of steps."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        widths: tuple[int, ...],
        previous_rows: Tensor,
    ) -> Tensor:
        n_hidden = weight_hh.shape[1]
        two = 2 * n_hidden
        bias = torch.cat([bias_ih[:two] + bias_hh[:two], 2 * bias_ih[two:]])
        gates = torch.addmm(bias, x, torch.cat([weight_ih[:two], 2 * weight_ih[two:]]).t())
        hidden, new_from_hidden = (x.new_empty(len(x), n_hidden) for _ in range(2))
        weight_rz, weight_n = weight_hh[:two].t(), weight_hh[two:].t()
        minus_one = x.new_tensor(-1.0)
        h = x.new_zeros(widths[0], n_hidden)
        columns = (gates[:, :two], *gates.chunk(3, 1), new_from_hidden, hidden)
        for rz, r, z, n, from_hidden, h_next in _steps(widths, columns):
            if len(h) > len(n):
                h = h[: len(n)]
            torch.addmm(bias_hh[two:], h, weight_n, out=from_hidden)
            rz.addmm_(h, weight_rz).sigmoid_()
            n.addcmul_(r, from_hidden, value=2).sigmoid_()
            torch.add(minus_one, n, alpha=2, out=n)
            h = torch.lerp(n, h, z, out=h_next)
        ctx.save_for_backward(
            x, weight_ih, weight_hh, gates, new_from_hidden, hidden, previous_rows
        )
        ctx.widths = widths
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, gates, new_from_hidden, hidden, previous_rows = ctx.saved_tensors
        widths = ctx.widths
        n_hidden = weight_hh.shape[1]
        # Of the sums inside σ and tanh. The candidate's two parts differ by the factor r:
        # `d_sums` has the one that reaches the hidden state, `d_n` the one that reaches x.
        d_sums, d_n = torch.empty_like(gates), torch.empty_like(hidden)
        d_hidden = grads[0].clone()  # becomes the whole gradient, by way of later steps too
        columns = (*gates.chunk(3, 1), new_from_hidden, hidden, d_n, *d_sums.chunk(3, 1), d_sums)
        steps = _steps(widths, columns)
        d_h_steps = d_hidden.split_with_sizes(widths)
        new = spare = x.new_empty(0)
        for t in range(len(widths) - 1, -1, -1):
            r, z, n, from_hidden, h, d_n_t, d_r, d_z, d_rn, d_sums_t = steps[t]
            d_h = d_h_steps[t]
            if len(new) < len(d_h):
                new, spare = torch.empty_like(d_h), torch.empty_like(d_h)
            torch.addcmul(d_h, d_h, z, value=-1, out=new)
            torch.ops.aten.tanh_backward.grad_input(new, n, grad_input=d_n_t)
            # z (1 - z) (h_prev - n) is (1 - z) (h - n).
            torch.mul(new, torch.sub(h, n, out=spare), out=d_z)
            torch.mul(d_n_t, r, out=d_rn)
            torch.mul(d_rn, from_hidden, out=spare)
            torch.addcmul(spare, spare, r, value=-1, out=d_r)
            if t > 0:
                d_before = d_h_steps[t - 1]
                if len(d_before) > len(d_h):
                    d_before = d_before[: len(d_h)]
                d_before.addcmul_(d_h, z).addmm_(d_sums_t, weight_hh)
        grad_weight_hh = d_sums[widths[0] :].t() @ hidden.index_select(0, previous_rows)
        grad_bias_hh = d_sums.sum(0)
        d_sums[:, 2 * n_hidden :] = d_n
        grad_bias_ih = torch.cat([grad_bias_hh[: 2 * n_hidden], d_n.sum(0)])
        grad_weight_ih = d_sums.t() @ x
        grad_x = d_sums @ weight_ih if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh, None, None


def _steps(widths: Sequence[int], columns: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """For every step its rows of each of these [R, ...] tensors: views, cut all at once."""
    return list(zip(*(column.split_with_sizes(widths) for column in columns), strict=True))
