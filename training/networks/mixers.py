"""Mixers: from the agents' chosen Q values to the value that is trained. One `forward` for all.

forward(q_values [K, A], state [K, S]) -> [K, M], where M is 1, or A if nothing is mixed.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class IndependentMixer(nn.Module):
    """IQL: every agent's value is trained by itself. [K, A] -> [K, A]."""

    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        return q_values


class VDNMixer(nn.Module):
    """VDN (Sunehag et al. 2018): Q_tot is the sum of the agents' values. [K, A] -> [K, 1]."""

    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        return q_values.sum(1, keepdim=True)


class QMixer(nn.Module):
    """QMIX (Rashid et al. 2018): Q_tot rises with every agent's value. [K, A] -> [K, 1].

        Q_tot = ELU(q |W1(s)| + b1(s)) |W2(s)| + V(s)

    W1 and W2 come from hypernetworks of one layer (ICML 2018) or two (SMAC), b1 from one layer and
    V from two. All their first layers read the state, so they are one Linear here, cut afterwards:
    torch initialises a layer by its number of inputs, which they share.
    """

    def __init__(
        self,
        n_agents: int,
        state_dim: int,
        embed_dim: int = 32,
        hypernet_layers: int = 2,
        hypernet_embed: int = 64,
    ) -> None:
        super().__init__()
        self.n_agents, self.embed_dim = n_agents, embed_dim
        w1_dim, w2_dim = n_agents * embed_dim, embed_dim
        self.w1: nn.Module = nn.Identity()
        self.w2: nn.Module = nn.Identity()
        self.first_sizes = [w1_dim, w2_dim, embed_dim, embed_dim]
        if hypernet_layers == 2:
            self.w1 = nn.Sequential(nn.ReLU(), nn.Linear(hypernet_embed, w1_dim))
            self.w2 = nn.Sequential(nn.ReLU(), nn.Linear(hypernet_embed, w2_dim))
            self.first_sizes[:2] = hypernet_embed, hypernet_embed
        self.first = nn.Linear(state_dim, sum(self.first_sizes))
        self.v = nn.Linear(embed_dim, 1)

    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        w1, w2, b1, v = self.first(state).split_with_sizes(self.first_sizes, 1)
        w1 = self.w1(w1).abs().view(-1, self.n_agents, self.embed_dim)
        w2 = self.w2(w2).abs()
        mixed = F.elu((q_values.unsqueeze(2) * w1).sum(1) + b1)
        q_tot: Tensor = (mixed * w2).sum(1, keepdim=True) + self.v(v.relu())
        return q_tot
