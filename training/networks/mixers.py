"""Mixers: from the agents' chosen Q values to the value that is trained. One `forward` for all.

forward(q_values [K, A], state [K, S]) -> [K, M], where M is 1, or A if nothing is mixed.

All but the first are monotonic: Q_tot never falls when an agent's value rises. That is why each
agent may choose by its own values and the team's choice is still the best by Q_tot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from training.config import LearningConfig
    from training.types import EnvInfo


def build_mixer(algo: str, info: EnvInfo, config: LearningConfig) -> nn.Module:
    """The mixer that makes the Q learner this algorithm.

    Raises:
        KeyError: the algorithm has none.
    """
    n_agents, state_dim, embed_dim = info.n_agents, info.state_dim, config.mixing_embed_dim
    layers, hidden = config.hypernet_layers, config.hypernet_embed
    mixers: dict[str, Callable[[], nn.Module]] = {
        "iql": IndependentMixer,
        "vdn": VDNMixer,
        "vdn_s": lambda: VDNStateMixer(state_dim, embed_dim),
        "qmix": lambda: QMixer(n_agents, state_dim, embed_dim, layers, hidden),
        "qmix_ns": lambda: StatelessQMixer(n_agents, embed_dim),
        "qmix_lin": lambda: LinearQMixer(n_agents, state_dim, embed_dim, layers, hidden),
    }
    return mixers[algo]()


class IndependentMixer(nn.Module):
    """IQL: every agent's value is trained by itself. [K, A] -> [K, A]."""

    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        return q_values


class VDNMixer(nn.Module):
    """VDN (Sunehag et al. 2018): Q_tot is the sum of the agents' values. [K, A] -> [K, 1]."""

    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        return q_values.sum(1, keepdim=True)


class VDNStateMixer(nn.Module):
    """VDN-S: Q_tot is the sum of the agents' values plus V(s), of one hidden layer. [K, A] ->
    [K, 1].

    V is QMIX's last bias (Rashid et al. 2018, section 6.2): it moves the level of a state's values,
    and no agent's choice.
    """

    def __init__(self, state_dim: int, hidden_dim: int = 32) -> None:
        super().__init__()
        self.v = state_value(state_dim, hidden_dim)

    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        value: Tensor = self.v(state)
        return q_values.sum(1, keepdim=True) + value


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


class StatelessQMixer(nn.Module):
    """QMIX-NS: QMIX's mixing network with weights of its own, the same in every state. [K, A] ->
    [K, 1].

        Q_tot = ELU(q |W1| + b1) |W2| + b2

    Nothing of it reads the state (Rashid et al. 2018, section 6.2), so V(s) has become the number
    b2. Drawn as torch draws two linear layers of these sizes.
    """

    def __init__(self, n_agents: int, embed_dim: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(n_agents, embed_dim)
        self.second = nn.Linear(embed_dim, 1)

    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        mixed = F.elu(F.linear(q_values, self.first.weight.abs(), self.first.bias))
        return F.linear(mixed, self.second.weight.abs(), self.second.bias)


class LinearQMixer(nn.Module):
    """QMIX-Lin: QMIX without a hidden layer. [K, A] -> [K, 1].

        Q_tot = q |w(s)| + V(s)

    w comes from a hypernetwork of one layer or two and V from two, as QMIX's (Rashid et al. 2018,
    section 6.2). It extends VDN, whose weights are 1.
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
        self.w: nn.Module = nn.Linear(state_dim, n_agents)
        if hypernet_layers == 2:
            self.w = nn.Sequential(
                nn.Linear(state_dim, hypernet_embed),
                nn.ReLU(),
                nn.Linear(hypernet_embed, n_agents),
            )
        self.v = state_value(state_dim, embed_dim)

    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        weights: Tensor = self.w(state)
        value: Tensor = self.v(state)
        return (q_values * weights.abs()).sum(1, keepdim=True) + value


def state_value(state_dim: int, hidden_dim: int) -> nn.Sequential:
    """V(s): [K, S] -> [K, 1], by one hidden layer."""
    return nn.Sequential(nn.Linear(state_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 1))
