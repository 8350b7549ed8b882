"""Does the exported graph play as the trained network does? Whole episodes, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from training.envs.base import BatchedEnv
from training.graph_policy import open_graph
from training.networks.agent import DRQN, NO_ACTION
from training.types import Observation

TOLERANCE = 1e-5
"""Largest difference of a Q value, relative to those over 1."""
N_GOLDEN_ROWS = 8


class ParityError(RuntimeError):
    """The graph and the network it was made from do not agree."""


@dataclass(frozen=True)
class Parity:
    """What whole episodes, played with the graph's actions, have shown."""

    episodes: int
    rows: int
    """Steps of single agents compared."""
    max_difference: float
    """Of a Q value, relative to those over 1."""
    golden_rows: list[dict[str, Any]]
    """Real steps, first and later ones, with the network's own answers; for the manifest."""


class _Step(NamedTuple):
    """One step of all agents of E battles, [E * A, ...]; what the network saw and answered."""

    obs: np.ndarray[Any, Any]
    avail_actions: np.ndarray[Any, Any]
    last_action: np.ndarray[Any, Any]
    agent_id: np.ndarray[Any, Any]
    hidden: np.ndarray[Any, Any]
    action: np.ndarray[Any, Any]
    q_values: np.ndarray[Any, Any]
    next_hidden: np.ndarray[Any, Any]


def check_parity(agent: DRQN, model: bytes, env: BatchedEnv) -> Parity:
    """Play one battle in each of E slots and compare every step.

    Both carry their own memory from step to step. All actions must be equal, but where the
    network's two best Q values differ by less than the tolerance: which is first is rounding then.

    Args:
        agent: on the CPU.
        model: the ONNX file's content.

    Raises:
        ParityError: naming the first step, battle and agent at fault.
    """
    players = _Players(agent, model, env)
    observation = env.reset()
    running = np.ones(env.n_envs, dtype=np.bool_)
    lengths = np.zeros(env.n_envs, dtype=np.int64)
    steps: list[_Step] = []
    while running.any():
        step = players.step(observation, np.repeat(running, agent.n_agents), len(steps))
        steps.append(step)
        transition = env.step(torch.from_numpy(step.action).view(env.n_envs, -1).to(env.device))
        observation = transition.observation
        lengths += running
        running &= ~(transition.terminated | transition.truncated).cpu().numpy()
    return Parity(
        episodes=env.n_envs,
        rows=int(lengths.sum()) * agent.n_agents,
        max_difference=players.max_difference,
        golden_rows=_golden_rows(steps, agent.n_agents, int(lengths.argmax()), int(lengths.max())),
    )


class _Players:
    """The network and the graph, each with its own memory."""

    def __init__(self, agent: DRQN, model: bytes, env: BatchedEnv) -> None:
        self.agent = agent
        self.session = open_graph(model)
        self.max_difference = 0.0
        self._agent_id = torch.arange(agent.n_agents).repeat(env.n_envs)
        self._last_action = torch.full_like(self._agent_id, NO_ACTION)
        self._hidden = agent.initial_hidden(len(self._agent_id))
        self._graph_hidden = self._hidden.numpy().copy()

    @torch.no_grad()
    def step(self, observation: Observation, running: np.ndarray[Any, Any], t: int) -> _Step:
        """Both answer the same observation; `running` is [E * A] bool."""
        obs = observation.obs.flatten(0, 1).cpu()
        avail_actions = observation.avail_actions.flatten(0, 1).cpu()
        q_values, next_hidden = self.agent.step(
            obs, self._last_action, self._agent_id, self._hidden
        )
        action, graph_q_values, self._graph_hidden = self.session.run(
            ["action", "q_values", "next_hidden"],
            {
                "obs": obs.numpy(),
                "avail_actions": avail_actions.numpy(),
                "last_action": self._last_action.numpy(),
                "agent_id": self._agent_id.numpy(),
                "hidden": self._graph_hidden,
            },
        )
        step = _Step(
            obs.numpy(),
            avail_actions.numpy(),
            self._last_action.numpy(),
            self._agent_id.numpy(),
            self._hidden.numpy(),
            action,
            q_values.numpy(),
            next_hidden.numpy(),
        )
        self._compare(step, graph_q_values, running, t)
        self._last_action, self._hidden = torch.from_numpy(action), next_hidden
        return step

    def _compare(
        self,
        step: _Step,
        graph_q_values: np.ndarray[Any, Any],
        running: np.ndarray[Any, Any],
        t: int,
    ) -> None:
        scale = np.maximum(1.0, np.abs(step.q_values))
        difference = (np.abs(graph_q_values - step.q_values) / scale).max(1)
        # Not finite counts as different.
        wrong = running & ~(difference <= TOLERANCE)
        _require_none(wrong, f"Q values differ by more than {TOLERANCE}", t, self.agent)
        self.max_difference = max(self.max_difference, float(difference[running].max()))
        available = np.where(step.avail_actions, step.q_values, -np.inf)
        best = available.max(1)
        chosen = np.take_along_axis(available, step.action[:, None], 1)[:, 0]
        slack = 2 * TOLERANCE * np.maximum(1.0, np.abs(best))
        wrong = running & ~(best - chosen <= slack)
        _require_none(wrong, "actions differ", t, self.agent)


def _require_none(wrong: np.ndarray[Any, Any], what: str, t: int, agent: DRQN) -> None:
    if wrong.any():
        battle, agent_id = divmod(int(wrong.argmax()), agent.n_agents)
        raise ParityError(
            f"torch and onnxruntime disagree at step {t}, battle {battle}, agent {agent_id}: {what}"
        )


def _golden_rows(
    steps: list[_Step], n_agents: int, battle: int, length: int
) -> list[dict[str, Any]]:
    """Rows of the longest battle from its first step to its last, one agent after another."""
    times = np.linspace(0, length - 1, N_GOLDEN_ROWS).round().astype(int)
    rows = []
    for i, t in enumerate(times):
        row = battle * n_agents + i % n_agents
        rows.append({name: value[row].tolist() for name, value in steps[t]._asdict().items()})
    return rows
