"""The agent network: its size, its inputs, and its two ways in."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tests.training.episodes import make_batch, small_info
from training.networks.agent import DRQN, NO_ACTION


def small_agent(seed: int = 0) -> DRQN:
    torch.manual_seed(seed)
    info = small_info()
    return DRQN(info.obs_dim, info.n_actions, info.n_agents, hidden_dim=16)


def test_3s5z_has_the_published_number_of_parameters() -> None:
    agent = DRQN(obs_dim=128, n_actions=14, n_agents=8)
    # fc1: 150 * 64 + 64; GRU: 2 * 192 * 64 + 2 * 192; fc2: 64 * 14 + 14.
    assert sum(parameter.numel() for parameter in agent.parameters()) == 9664 + 24960 + 910 == 35534


def test_parameters_have_the_names_and_shapes_of_a_cell_between_two_linears() -> None:
    shapes = {name: tuple(value.shape) for name, value in small_agent().state_dict().items()}
    assert shapes == {
        "fc1.weight": (16, 6 + 5 + 3),
        "fc1.bias": (16,),
        "rnn.weight_ih": (48, 16),
        "rnn.weight_hh": (48, 16),
        "rnn.bias_ih": (48,),
        "rnn.bias_hh": (48,),
        "fc2.weight": (5, 16),
        "fc2.bias": (5,),
    }


def test_a_step_is_the_network_on_concatenated_one_hots() -> None:
    agent = small_agent()
    obs, hidden = torch.randn(4, 6), torch.randn(4, 16)
    last_action, agent_id = torch.tensor([NO_ACTION, 0, 4, 2]), torch.tensor([0, 1, 2, 2])
    action_one_hot = F.one_hot(last_action.clamp(min=0), 5).float()
    action_one_hot[0] = 0
    inputs = torch.cat([obs, action_one_hot, F.one_hot(agent_id, 3).float()], dim=1)
    expected_hidden = agent.rnn(F.relu(agent.fc1(inputs)), hidden)
    q_values, next_hidden = agent.step(obs, last_action, agent_id, hidden)
    torch.testing.assert_close(next_hidden, expected_hidden)
    torch.testing.assert_close(q_values, agent.fc2(expected_hidden))


def test_unrolling_a_batch_equals_acting_step_by_step() -> None:
    agent, batch = small_agent(), make_batch((4, 2, 1))
    n_agents = agent.n_agents
    q_values = agent.unroll(batch)
    agent_id = torch.arange(n_agents)
    starts = np.cumsum([0, *batch.widths])
    for episode, length in enumerate(batch.lengths):
        hidden = agent.initial_hidden(n_agents)
        last_action = torch.full((n_agents,), NO_ACTION)
        for t in range(length + 1):
            row = int(starts[t]) + episode
            expected, hidden = agent.step(batch.obs[row], last_action, agent_id, hidden)
            torch.testing.assert_close(q_values[row], expected)
            if t < length:
                step = (batch.step_rows == row).nonzero().item()
                last_action = batch.actions[int(step)]
