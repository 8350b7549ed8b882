"""COMA's critic: what it reads, and what it must not."""

from __future__ import annotations

import torch

from tests.training.episodes import make_batch, small_info
from tests.training.slow_coma import critic_values, moments
from training.networks.critic import COMACritic


def make_critic() -> COMACritic:
    torch.manual_seed(0)
    return COMACritic(small_info())


def test_its_size_is_that_of_pymarl() -> None:
    # State 7, observation 6, three agents' five actions twice, three ids; two layers of 128.
    n_inputs = 7 + 6 + 2 * 3 * 5 + 3
    expected = (n_inputs + 1) * 128 + 129 * 128 + 129 * 5
    assert sum(p.numel() for p in make_critic().parameters()) == expected


@torch.no_grad()
def test_it_equals_a_network_that_reads_everything_side_by_side() -> None:
    critic, batch = make_critic(), make_batch((3, 5, 1))
    actions = torch.randint(0, 5, (len(batch.obs), 3))
    actions[batch.step_rows] = batch.actions
    q_values = critic(critic.read(batch, actions))
    assert q_values.shape == (12, 3, 5)
    row_of = {}
    for episode, t, row in moments(batch):
        row_of[episode, t] = row
        last = actions[row_of[episode, t - 1]] if t else None
        for a in range(3):
            expected = critic_values(
                critic, batch.state[row], batch.obs[row, a], a, actions[row], last
            )
            torch.testing.assert_close(q_values[row, a], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_agents_values_depend_on_the_others_actions_and_not_on_its_own() -> None:
    critic, batch = make_critic(), make_batch((1,))
    actions = torch.tensor([[0, 1, 2], [0, 0, 0]])
    changed = torch.tensor([[4, 1, 2], [0, 0, 0]])  # by agent 0
    before, after = (critic(critic.read(batch, a))[0] for a in (actions, changed))
    torch.testing.assert_close(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-3
    assert (before[2] - after[2]).abs().max() > 1e-3


@torch.no_grad()
def test_cut_into_time_steps_it_says_the_same() -> None:
    critic, batch = make_critic(), make_batch((3, 5, 1))
    actions = torch.randint(0, 5, (len(batch.obs), 3))
    whole = critic.read(batch, actions)
    steps = whole.rows(batch.step_rows).steps(batch.widths[1:])
    assert [len(step.team) for step in steps] == [3, 2, 2, 1, 1]
    apart = torch.cat([critic(step) for step in steps])
    torch.testing.assert_close(apart, critic(whole)[batch.step_rows])
