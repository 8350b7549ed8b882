"""What the mixers can represent, and what they cannot, shown rather than told.

Payoff tables are [first agent's action, second agent's action].
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.training.episodes import small_info
from training.config import LearningConfig
from training.networks.mixers import build_mixer

MONOTONIC = ("vdn", "vdn_s", "qmix", "qmix_ns", "qmix_lin")
INFO = small_info()  # 3 agents, 7 features of the state
ADDITIVE = ("vdn", "vdn_s", "qmix_lin")  # within one state


def random_mixer(algo: str, seed: int, scale: float, layers: int = 2) -> nn.Module:
    """In float64: a fall by rounding is none. Weights drawn wider than torch does."""
    torch.manual_seed(seed)
    settings = LearningConfig(hypernet_layers=2 if layers == 2 else 1)
    mixer = build_mixer(algo, INFO, settings).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.mul_(scale)
    return mixer


@pytest.mark.parametrize("algo", MONOTONIC)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    agent=st.integers(0, INFO.n_agents - 1),
    rise=st.floats(1e-3, 100.0),
    scale=st.floats(0.1, 30.0),
    layers=st.sampled_from([1, 2]),
)
def test_q_tot_never_falls_when_an_agents_value_rises(
    algo: str, seed: int, agent: int, rise: float, scale: float, layers: int
) -> None:
    mixer = random_mixer(algo, seed, 1.0, layers)
    q_values = scale * torch.randn(16, INFO.n_agents, dtype=torch.float64)
    state = scale * torch.randn(16, INFO.state_dim, dtype=torch.float64)
    higher = q_values.clone()
    higher[:, agent] += rise
    assert (mixer(higher, state) >= mixer(q_values, state)).all()


@pytest.mark.parametrize("algo", MONOTONIC)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.5, 3.0), n_actions=st.integers(2, 5))
def test_the_agents_own_best_actions_are_the_teams_best(
    algo: str, seed: int, scale: float, n_actions: int
) -> None:
    mixer = random_mixer(algo, seed, scale)
    q_values = torch.randn(INFO.n_agents, n_actions, dtype=torch.float64)
    state = torch.randn(1, INFO.state_dim, dtype=torch.float64)
    joint = list(itertools.product(range(n_actions), repeat=INFO.n_agents))
    chosen = q_values[torch.arange(INFO.n_agents), torch.tensor(joint)]
    q_tot = mixer(chosen, state.expand(len(joint), -1))[:, 0].detach()
    own_best = joint.index(tuple(q_values.argmax(1).tolist()))
    # Not the index: where a weight is zero, or ELU flat, other actions may be as good.
    assert float(q_tot[own_best]) == pytest.approx(float(q_tot.max()), rel=1e-9, abs=1e-9)


def test_without_the_absolute_value_both_would_fail() -> None:
    """The two tests above can fail: a mixer of free signs does what they forbid."""
    torch.manual_seed(0)
    free = nn.Sequential(nn.Linear(3, 32), nn.ELU(), nn.Linear(32, 1)).double()
    q_values = torch.randn(16, 3, dtype=torch.float64)
    falls = [
        (free(q_values + rise) < free(q_values)).any() for rise in torch.eye(3, dtype=torch.float64)
    ]
    assert any(falls)


def fit(algo: str, payoff: Tensor, seed: int = 0) -> Tensor:
    """The table that a mixer makes of one payoff table, trained on all of it to the end.

    The agents' values are free numbers, one for each of their actions, and the state is always the
    same: only the mixer limits what can be reached.
    """
    torch.manual_seed(seed)
    n_actions, n_steps = len(payoff), 1200
    info = dataclasses.replace(INFO, n_agents=2, state_dim=1)
    mixer = build_mixer(algo, info, LearningConfig(mixing_embed_dim=8, hypernet_layers=1)).double()
    q_values = nn.Parameter(torch.randn(2, n_actions, dtype=torch.float64))
    joint = torch.cartesian_prod(torch.arange(n_actions), torch.arange(n_actions))
    state = torch.ones(len(joint), 1, dtype=torch.float64)
    optimiser = torch.optim.Adam([q_values, *mixer.parameters()], lr=0.05)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, n_steps)
    for _ in range(n_steps):
        fitted = mixer(q_values[torch.arange(2), joint], state).view(n_actions, n_actions)
        optimiser.zero_grad()
        (fitted - payoff).square().mean().backward()
        optimiser.step()
        slower.step()
    return fitted.detach()  # type: ignore[no-any-return]


def squared_error(fitted: Tensor, payoff: Tensor) -> float:
    return float((fitted - payoff).square().sum())


def table(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Which action is best depends on the other's: no monotonic function has these values.
CORNER = table([12, -0.1, -0.1], [-0.1, 0, 0], [-0.1, 0, 0])
CLIMBING = table([8, -12, -12], [-12, 0, 0], [-12, 0, 0])  # Son et al. 2019, table 1
# State 2B of the two-step game: monotonic, and not additive.
STATE_2B = table([0, 1], [1, 8])


@pytest.mark.parametrize("algo", ADDITIVE)
def test_sums_reach_their_least_squares_fit_of_the_corner_and_no_more(algo: str) -> None:
    """The fit is row mean + column mean - mean. Row means: 11.8 / 3 = 59 / 15 and -0.1 / 3; mean:
    11.6 / 9. So 296 / 45 in the corner, 117.5 / 45 beside it, -61 / 45 elsewhere. Errors: 244 / 45,
    four of -122 / 45, four of 61 / 45: squared, 36 * 61^2 / 45^2 = 66.1511."""
    fitted = fit(algo, CORNER)
    corner, beside, elsewhere = 296 / 45, 117.5 / 45, -61 / 45
    by_hand = table(
        [corner, beside, beside], [beside, elsewhere, elsewhere], [beside, elsewhere, elsewhere]
    )
    torch.testing.assert_close(fitted, by_hand, rtol=0, atol=1e-3)
    assert squared_error(fitted, CORNER) == pytest.approx(66.1511, rel=1e-5)


@pytest.mark.parametrize("algo", ["qmix", "qmix_ns"])
def test_a_monotonic_mixer_comes_close_to_the_corner_and_never_there(algo: str) -> None:
    """If action 0 is the first agent's best at one partner's action it is at all: the fit's
    row 0 is at least its row 1, where the table has -0.1 and 0, so the two miss by 0.1 together:
    squares of at least 2 * 0.05^2. There are four such pairs, two from each agent, that share no
    cell: 0.02. If row 1 or 2 is at least row 0 instead, column 0 alone costs 2 * 6.05^2 = 73.2."""
    error = squared_error(fit(algo, CORNER), CORNER)
    assert 0.02 <= error < 0.04


def test_vdn_values_the_climbing_table_wrongly_and_chooses_wrongly() -> None:
    """Row means -16 / 3 and -4, mean -40 / 9: the fit is -56 / 9 in the corner, -44 / 9 beside it
    and -32 / 9 elsewhere. Errors 128 / 9, four of -64 / 9, four of 32 / 9: squared, 36 * 32^2 /
    9^2 = 455.111. The best of the fit pays 0; the table's best is 8."""
    fitted = fit("vdn", CLIMBING)
    assert squared_error(fitted, CLIMBING) == pytest.approx(455.1111, rel=1e-5)
    assert CLIMBING.flatten()[fitted.argmax()] == 0


@pytest.mark.parametrize("algo", ["qmix", "qmix_ns"])
def test_no_monotonic_mixer_reaches_the_climbing_table(algo: str) -> None:
    """The best fit has 8 and eight cells of -6: 8 * 6^2 = 288. With action 0 each agent's worst,
    the corner's five cells share their mean of -8: 16^2 + 4 * 4^2 = 320, where training often
    ends. Every other order of the actions costs more than 288."""
    error = squared_error(fit(algo, CLIMBING), CLIMBING)
    assert 288 <= error < 321


def test_state_2b_is_out_of_reach_of_sums_and_no_trouble_for_qmix() -> None:
    """So it is the mixer that limits the fits above, not how they are trained."""
    vdn, qmix = fit("vdn", STATE_2B), fit("qmix", STATE_2B)
    torch.testing.assert_close(vdn, table([-1.5, 2.5], [2.5, 6.5]), rtol=0, atol=1e-3)
    assert squared_error(vdn, STATE_2B) == pytest.approx(4 * 1.5**2, rel=1e-5)
    assert squared_error(qmix, STATE_2B) < 1e-3
