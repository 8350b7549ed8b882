"""COMA as it is written on paper: one episode, one step, one agent at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from training.networks.agent import DRQN
from training.networks.critic import COMACritic
from training.types import EpisodeBatch


def moments(batch: EpisodeBatch) -> Iterator[tuple[int, int, int]]:
    """(episode, step, row) of every observation, in the batch's order."""
    row = 0
    for step, width in enumerate(batch.widths):
        for episode in range(width):
            yield episode, step, row
            row += 1


def rows_of(batch: EpisodeBatch) -> dict[tuple[int, int], int]:
    """(episode, step) -> the row of that observation."""
    return {(episode, step): row for episode, step, row in moments(batch)}


def steps_of(batch: EpisodeBatch) -> dict[tuple[int, int], int]:
    """(episode, step) -> the place of that step among the batch's steps."""
    taken = ((e, t) for e, t, _ in moments(batch) if t < batch.lengths[e])
    return {place: k for k, place in enumerate(taken)}


def logits_of(agent: DRQN, batch: EpisodeBatch) -> dict[tuple[int, int, int], Tensor]:
    """(episode, step, agent) -> [U]."""
    rows, steps, logits = rows_of(batch), steps_of(batch), {}
    for episode, length in enumerate(batch.lengths):
        for a in range(agent.n_agents):
            hidden, last = agent.initial_hidden(1), torch.tensor([-1])
            for t in range(length + 1):
                obs = batch.obs[rows[episode, t], a][None]
                out, hidden = agent.step(obs, last, torch.tensor([a]), hidden)
                logits[episode, t, a] = out[0]
                if t < length:
                    last = batch.actions[steps[episode, t], a][None]
    return logits


def critic_values(
    critic: COMACritic, state: Tensor, obs: Tensor, a: int, actions: Tensor, last: Tensor | None
) -> Tensor:
    """[U] of agent `a`, from its whole input side by side.

    Args:
        state: [S].
        obs: [O], the agent's own.
        actions: [A] of all agents; its own is left out.
        last: [A], or None at the first step.
    """
    n_agents, n_actions = critic.n_agents, critic.n_actions
    others = F.one_hot(actions, n_actions).float()
    others[a] = 0.0
    before = torch.zeros(n_agents, n_actions) if last is None else F.one_hot(last, n_actions)
    who = F.one_hot(torch.tensor(a), n_agents)
    x = torch.cat([state, others.flatten(), before.flatten(), obs, who]).float()
    q_values: Tensor = critic.fc3(F.relu(critic.fc2(F.relu(critic.fc1(x)))))
    return q_values


def probabilities(logits: Tensor, available: Tensor, epsilon: float) -> Tensor:
    exponentials = logits.exp()
    mixed = (1 - epsilon) * exponentials / exponentials.sum() + epsilon / len(logits)
    mixed = torch.where(available, mixed, 0.0)
    return mixed / mixed.sum()


def lambda_return(rewards: list[float], values: list[float], gamma: float, lam: float) -> float:
    """Of an episode's first step: the mean of its n-step returns, weighted by (1 - λ) λ^(n - 1).

    Args:
        rewards: to the episode's end.
        values: after each step; the last is 0 where the episode ended there.
    """
    total, left = 0.0, 1.0
    for n in range(1, len(rewards) + 1):
        n_step = sum(gamma**i * reward for i, reward in enumerate(rewards[:n]))
        n_step += gamma**n * values[n - 1]
        weight = left if n == len(rewards) else (1 - lam) * lam ** (n - 1)
        total, left = total + weight * n_step, left - weight
    return total
