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
    if x.is_cuda:  # cuDNN knows this layout
        zeros = x.new_zeros(1, widths[0], cell.hidden_size)
        batch_sizes = torch.tensor(widths)
        return torch._VF.gru(x, batch_sizes, zeros, weights, True, 1, 0.0, True, False)[0]
    return _PackedGRU.apply(x, *weights, tuple(widths), previous_rows)  # type: ignore[no-any-return,no-untyped-call]


class _PackedGRU(torch.autograd.Function):
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
        bias = bias_ih.clone()
        bias[: 2 * n_hidden] += bias_hh[: 2 * n_hidden]
        gates = torch.addmm(bias, x, weight_ih.t())
        hidden, new_from_hidden = (x.new_empty(len(x), n_hidden) for _ in range(2))
        weight_rz, weight_n = weight_hh[: 2 * n_hidden].t(), weight_hh[2 * n_hidden :].t()
        bias_n = bias_hh[2 * n_hidden :]
        h = x.new_zeros(widths[0], n_hidden)
        start = 0
        for width in widths:
            rows = slice(start, start + width)
            start += width
            h = h[:width]
            rz, new = gates[rows].split_with_sizes([2 * n_hidden, n_hidden], 1)
            from_hidden = torch.addmm(bias_n, h, weight_n, out=new_from_hidden[rows])
            reset, update = rz.addmm_(h, weight_rz).sigmoid_().chunk(2, 1)
            new.addcmul_(reset, from_hidden).tanh_()
            h = torch.lerp(new, h, update, out=hidden[rows])
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
        grad = grads[0].clone()
        n_hidden = weight_hh.shape[1]
        reset, update, new = gates.chunk(3, 1)
        h_prev = torch.zeros_like(hidden)
        torch.index_select(hidden, 0, previous_rows, out=h_prev[widths[0] :])
        d_new = (1 - update) * (1 - new * new)
        d_gates = x.new_empty(len(x), 3, n_hidden)
        d_gates[:, 0] = d_new * new_from_hidden * reset * (1 - reset)
        d_gates[:, 1] = (h_prev - new) * update * (1 - update)
        d_gates[:, 2] = d_new * reset
        end = len(x)
        for t in range(len(widths) - 1, -1, -1):
            width = widths[t]
            start = end - width
            d_h = grad[start:end]
            d_sums = d_gates[start:end].mul_(d_h.unsqueeze(1)).view(width, -1)
            if t:
                before = start - widths[t - 1]
                d_before = grad[before : before + width]
                d_before.addcmul_(d_h, update[start:end]).addmm_(d_sums, weight_hh)
            end = start
        d_sums = d_gates.view(len(x), -1)
        grad_weight_hh = d_sums[widths[0] :].t() @ h_prev[widths[0] :]
        grad_bias_hh = d_sums.sum(0)
        torch.mul(grad, d_new, out=d_sums[:, 2 * n_hidden :])
        grad_bias_ih = d_sums.sum(0)
        grad_weight_ih = d_sums.t() @ x
        grad_x = d_sums @ weight_ih if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh, None, None
