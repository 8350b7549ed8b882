"""One run of the QMIX paper's two-step game (Rashid et al., ICML 2018, section 5), and what it
has learned: the value of every joint action in every state.

The team explores at random throughout, so what it plays does not depend on what it learns. All
games are therefore played first, side by side, and then learned from in their order: after each
game the replay holds what it would hold had they been played one by one.

Settings are the paper's where it gives them. What differs:
    agents are the DRQN that everything here is trained with: a GRU, and one's last action among the
        inputs, where the paper's game has one hidden layer that sees the state alone
    the learning rate falls linearly from twice the paper's to nothing, so that its mean is the
        paper's: at a constant rate the values go on trembling, by more than the 0.1 they should be
        right to, and VDN, for which 2A and 2B are half a point apart, takes 2B now and then
    a gradient step is taken after every fourth game, which is a matter of time only
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.algorithms.q_learner import QLearner
from training.config import TrainConfig, with_values
from training.envs.two_step import N_ACTIONS, N_AGENTS, PAYOFF_2A, PAYOFF_2B, TwoStepEnv
from training.networks.agent import NO_ACTION
from training.pace import GradientSchedule
from training.replay import ReplayBuffer, replay_size
from training.rollout import AgentPolicy, Rollout, play_battles
from training.types import Episode

Table = list[list[float]]  # rows: the first agent's action, A or B; columns: the second's
STATES = ("1", "2A", "2B")
N_EPISODES = 5000
PARALLEL = 100  # games side by side; it changes no result but by the order of random draws

SETTINGS = {
    "env": "two_step",
    "epsilon_start": 1.0,
    "epsilon_finish": 1.0,
    "gamma": 0.99,
    "buffer_size": 500,
    "batch_size": 32,
    "optimizer": "rmsprop",
    "target_update_interval": 100,
    "target_update_unit": "episodes",
    "double_q": False,
    "rnn_hidden_dim": 64,
    "mixing_embed_dim": 8,
    "hypernet_layers": 1,
    # Not the paper's: see above.
    "gradient_steps_per_episode": 0.25,
    "lr": 2 * 5e-4,  # at first
}
DIFFERENCES = (
    "settings are the paper's, but for agents with a GRU and their last action, a learning rate "
    "that falls linearly from 0.001 to 0, and a gradient step after every fourth game"
)

# As the paper prints them.
PAPER: dict[str, dict[str, Table]] = {
    "vdn": {
        "1": [[6.94, 6.94], [6.35, 6.36]],
        "2A": [[6.99, 7.02], [6.99, 7.02]],
        "2B": [[-1.87, 2.31], [2.33, 6.51]],
    },
    "qmix": {
        "1": [[6.93, 6.93], [7.92, 7.92]],
        "2A": [[7.00, 7.00], [7.00, 7.00]],
        "2B": [[0.00, 1.00], [1.00, 8.00]],
    },
}


@dataclass(frozen=True)
class Outcome:
    """What one run has learned."""

    seed: int
    greedy_return: float
    """What the team earns, every agent taking what it thinks best."""
    q_tot: dict[str, Table]
    """State -> the value of each joint action. In 2A and 2B, which agents with memory can tell
    apart by how they got there, the mean over the ways."""
    largest_error: float
    """The largest distance from a true value, over all joint actions and ways to get there."""


def study(algo: str, seed: int, n_episodes: int = N_EPISODES) -> Outcome:
    """Learn from `n_episodes` random games.

    Raises:
        ConfigError: there is no such algorithm.
        ValueError: the games do not fill a batch.
    """
    config = with_values(TrainConfig(), SETTINGS | {"algo": algo, "seed": seed}, "two_step")
    batch_size = config.learning.batch_size
    if n_episodes < batch_size:
        raise ValueError(f"{n_episodes} episodes do not fill a batch of {batch_size}")
    torch.manual_seed(seed)
    learner = QLearner(TwoStepEnv().info, config.task.algo, config.learning, torch.device("cpu"))
    learn(learner, config, play_at_random(learner, seed, n_episodes))
    first, second = joint_values(learner)
    true_first, true_second = true_values(config.learning.gamma)
    errors = torch.cat([(first - true_first).flatten(), (second - true_second).flatten()]).abs()
    policy = AgentPolicy(learner.agent, n_envs=1)
    tables = (first, *second.mean(1))
    return Outcome(
        seed=seed,
        greedy_return=play_battles(TwoStepEnv(), policy, [0])[0].episode_return,
        q_tot={state: table.tolist() for state, table in zip(STATES, tables, strict=True)},
        largest_error=float(errors.max()),
    )


def play_at_random(learner: QLearner, seed: int, n_episodes: int) -> list[Episode]:
    """So many games at an epsilon of 1."""
    env = TwoStepEnv(n_envs=PARALLEL)
    policy = AgentPolicy(learner.agent, PARALLEL, lambda env_steps: 1.0, seed)
    rounds = -(-n_episodes // PARALLEL)
    n_env_steps = rounds * PARALLEL * env.info.episode_limit
    return Rollout(env, policy).play(n_env_steps)[:n_episodes]


def learn(learner: QLearner, config: TrainConfig, episodes: list[Episode]) -> None:
    """Take the episodes in one by one, and the gradient steps as they fall due."""
    settings = config.learning
    size = replay_size(TwoStepEnv().info, settings.buffer_size)
    replay = ReplayBuffer(TwoStepEnv().info, size, np.random.default_rng(config.task.seed))
    schedule = GradientSchedule(settings.gradient_steps_per_episode, settings.batch_size)
    n_steps = schedule.due(len(episodes))
    for n_episodes, episode in enumerate(episodes, start=1):
        replay.add([episode])
        while learner.gradient_steps < schedule.due(n_episodes):
            for group in learner.optimiser.param_groups:
                group["lr"] = settings.lr * (1 - learner.gradient_steps / n_steps)
            learner.train(replay.sample(settings.batch_size), n_episodes)


@torch.no_grad()
def joint_values(learner: QLearner) -> tuple[Tensor, Tensor]:
    """Q_tot of every joint action: [2, 2] in state 1, and [2, 2, 2, 2] in the states 2A and 2B that
    the first agent chose, by the action that the second one took meanwhile (dimension 1)."""
    firsts = torch.cartesian_prod(torch.arange(N_ACTIONS), torch.arange(N_ACTIONS))  # [4, 2]
    env = TwoStepEnv(n_envs=len(firsts))
    agent, agent_id = learner.agent, torch.arange(N_AGENTS).repeat(len(firsts))
    observation = env.reset()
    nothing_yet = torch.full_like(agent_id, NO_ACTION)
    hidden = agent.initial_hidden(len(agent_id))
    q_values, hidden = agent.step(observation.obs.flatten(0, 1), nothing_yet, agent_id, hidden)
    in_first = _mix(learner, q_values, observation.state)
    observation = env.step(firsts).observation
    q_values, _ = agent.step(observation.obs.flatten(0, 1), firsts.flatten(), agent_id, hidden)
    in_second = _mix(learner, q_values, observation.state)
    return in_first[0], in_second.view(N_ACTIONS, N_ACTIONS, N_ACTIONS, N_ACTIONS)


def true_values(gamma: float) -> tuple[Tensor, Tensor]:
    """What `joint_values` would be of a team that knows the game."""
    second = torch.tensor([PAYOFF_2A, PAYOFF_2B])
    first = gamma * second.amax((1, 2))[:, None].expand(N_ACTIONS, N_ACTIONS)
    return first, second[:, None].expand(-1, N_ACTIONS, -1, -1)


def true_tables() -> dict[str, Table]:
    """The true values by state, as tables."""
    first, second = true_values(float(str(SETTINGS["gamma"])))
    tables = (first, *second[:, 0])
    return {state: table.tolist() for state, table in zip(STATES, tables, strict=True)}


def spell(value: float) -> str:
    """With two decimals, and no minus before a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _mix(learner: QLearner, q_values: Tensor, state: Tensor) -> Tensor:
    """[E, 2, 2]: Q_tot of both agents' actions, from their own values [2 E, U]."""
    n_envs = len(state)
    first, second = q_values.view(n_envs, N_AGENTS, N_ACTIONS).unbind(1)
    pairs = torch.stack([first.repeat_interleave(N_ACTIONS, 1), second.repeat(1, N_ACTIONS)], 2)
    states = state.repeat_interleave(N_ACTIONS * N_ACTIONS, 0)
    q_tot: Tensor = learner.mixer(pairs.flatten(0, 1), states)
    return q_tot.view(n_envs, N_ACTIONS, N_ACTIONS)
