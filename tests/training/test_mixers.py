"""What the mixers add up to. What they can represent is test_representation's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.training.episodes import small_info
from training.algorithms import ALGORITHMS
from training.config import LearningConfig
from training.networks.mixers import (
    IndependentMixer,
    LinearQMixer,
    QMixer,
    StatelessQMixer,
    VDNMixer,
    VDNStateMixer,
    build_mixer,
)

Q_VALUES = torch.tensor([[1.0, 2.0, -4.0], [0.5, 0.25, 0.0]])
STATE = torch.zeros(2, 7)


def test_iql_leaves_the_values_apart() -> None:
    assert torch.equal(IndependentMixer()(Q_VALUES, STATE), Q_VALUES)


def test_vdn_adds_the_values_up() -> None:
    assert torch.equal(VDNMixer()(Q_VALUES, STATE), torch.tensor([[-1.0], [0.75]]))


def test_qmix_of_3s5z_has_the_published_number_of_parameters() -> None:
    mixer = QMixer(n_agents=8, state_dim=216)
    w1 = 216 * 64 + 64 + 64 * 256 + 256
    w2 = 216 * 64 + 64 + 64 * 32 + 32
    b1 = 216 * 32 + 32
    v = 216 * 32 + 32 + 32 + 1
    assert sum(parameter.numel() for parameter in mixer.parameters()) == w1 + w2 + b1 + v == 60417


def test_one_layer_hypernetworks_map_the_state_straight_to_the_weights() -> None:
    mixer = QMixer(n_agents=3, state_dim=7, embed_dim=4, hypernet_layers=1)
    expected = (7 + 1) * (3 * 4 + 4 + 4 + 4) + 4 + 1
    assert sum(parameter.numel() for parameter in mixer.parameters()) == expected
    assert mixer(Q_VALUES, torch.randn(2, 7)).shape == (2, 1)


def test_qmix_by_hand() -> None:
    """Two agents, embed 1, weights that the state does not change: biases alone."""
    mixer = QMixer(n_agents=2, state_dim=1, embed_dim=1, hypernet_layers=1)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.zero_()
        # |W1| = (2, 3), |W2| = 5, b1 = 1, V's hidden unit = 7.
        mixer.first.bias.copy_(torch.tensor([-2.0, 3.0, -5.0, 1.0, 7.0]))
        mixer.v.weight.fill_(0.5)
        mixer.v.bias.fill_(0.25)
    # Positive: (2 * 1 + 3 * 2 + 1) * 5 + 0.5 * 7 + 0.25 = 48.75
    # Negative: ELU(2 * -1 + 3 * 0 + 1) = exp(-1) - 1 = -0.6321206, * 5 + 3.75 = 0.5893972
    q_tot = mixer(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]), torch.zeros(2, 1))
    torch.testing.assert_close(q_tot, torch.tensor([[48.75], [0.5893972]]))


def test_vdn_s_adds_a_value_of_the_state() -> None:
    """One hidden unit: V(s) = 0.5 ReLU(2 s1 - 1) + 0.25."""
    mixer = VDNStateMixer(state_dim=2, hidden_dim=1)
    set_layers(mixer.v, [[[2.0, 0.0]], [-1.0]], [[[0.5]], [0.25]])
    q_tot = mixer(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[3.0, 9.0], [0.0, 9.0]]))
    # 3 + 0.5 * 5 + 0.25; where the hidden unit is off, 3 + 0.25.
    assert q_tot.tolist() == [[5.75], [3.25]]


def test_vdn_s_has_one_hidden_layer_of_32() -> None:
    mixer = VDNStateMixer(state_dim=216)
    assert sum(p.numel() for p in mixer.parameters()) == 216 * 32 + 32 + 32 + 1


def test_qmix_ns_by_hand_is_the_same_in_every_state() -> None:
    mixer = StatelessQMixer(n_agents=2, embed_dim=1)
    set_layers(nn.Sequential(mixer.first, nn.Identity(), mixer.second), [[[-2.0, 3.0]], [1.0]],
               [[[-5.0]], [0.25]])  # fmt: skip
    q_values, state = torch.tensor([[1.0, 2.0], [-1.0, 0.0]]), torch.randn(2, 7)
    # (2 * 1 + 3 * 2 + 1) * 5 + 0.25 = 45.25; (exp(-1) - 1) * 5 + 0.25 = -2.9106028
    torch.testing.assert_close(mixer(q_values, state), torch.tensor([[45.25], [-2.9106028]]))
    assert torch.equal(mixer(q_values, state), mixer(q_values, 100 * state))


def test_qmix_ns_has_the_mixing_network_alone() -> None:
    mixer = StatelessQMixer(n_agents=8)
    assert sum(p.numel() for p in mixer.parameters()) == 8 * 32 + 32 + 32 + 1


def test_qmix_lin_by_hand() -> None:
    """Weights |s1|, |-2 s1 - 1| and V(s) = 3 ReLU(s1) + 0.5."""
    mixer = LinearQMixer(n_agents=2, state_dim=1, embed_dim=1, hypernet_layers=1)
    set_layers(mixer.v, [[[1.0]], [0.0]], [[[3.0]], [0.5]])
    assert isinstance(mixer.w, nn.Linear)
    mixer.w.load_state_dict(
        {"weight": torch.tensor([[1.0], [-2.0]]), "bias": torch.tensor([0.0, -1.0])}
    )
    q_tot = mixer(torch.tensor([[10.0, 1.0], [10.0, 1.0]]), torch.tensor([[2.0], [-1.0]]))
    # 2 * 10 + 5 * 1 + 6.5 = 31.5; 1 * 10 + 1 * 1 + 0.5 = 11.5
    assert q_tot.tolist() == [[31.5], [11.5]]


def test_qmix_lin_of_3s5z_has_a_hypernetwork_and_qmix_last_bias() -> None:
    mixer = LinearQMixer(n_agents=8, state_dim=216)
    w, v = 216 * 64 + 64 + 64 * 8 + 8, 216 * 32 + 32 + 32 + 1
    assert sum(p.numel() for p in mixer.parameters()) == w + v


def test_every_algorithm_that_learns_values_has_a_mixer() -> None:
    for name, algorithm in ALGORITHMS.items():
        if algorithm.on_policy:
            with pytest.raises(KeyError, match=name):
                build_mixer(name, small_info(), LearningConfig())
        else:
            mixer = build_mixer(name, small_info(), LearningConfig())
            n_values = 3 if name == "iql" else 1
            assert mixer(Q_VALUES, STATE).shape == (2, n_values)


def set_layers(net: nn.Sequential, *layers: list[Any]) -> None:
    """The weight and bias of its first and its last layer."""
    for layer, (weight, bias) in zip((net[0], net[2]), layers, strict=True):
        layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
