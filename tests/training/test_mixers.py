"""What the mixers add up to, and that QMIX never punishes an agent's gain."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.networks.mixers import IndependentMixer, QMixer, VDNMixer

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


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    agent=st.integers(0, 2),
    rise=st.floats(1e-3, 100.0),
    scale=st.floats(0.1, 30.0),
    layers=st.sampled_from([1, 2]),
)
def test_q_tot_never_falls_when_an_agents_value_rises(
    seed: int, agent: int, rise: float, scale: float, layers: int
) -> None:
    torch.manual_seed(seed)
    mixer = QMixer(n_agents=3, state_dim=7, hypernet_layers=layers).double()
    q_values, state = scale * torch.randn(16, 3), scale * torch.randn(16, 7)
    higher = q_values.clone()
    higher[:, agent] += rise
    assert (
        mixer(higher.double(), state.double()) >= mixer(q_values.double(), state.double())
    ).all()
