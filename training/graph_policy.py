"""An exported graph as a policy, run here by onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch

from training.envs.base import BatchedEnv
from training.networks.agent import NO_ACTION
from training.types import Observation


def open_graph(model: bytes) -> onnxruntime.InferenceSession:
    """A session on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class GraphPolicy:
    """Plays all E battles greedily: one row per agent and battle, each with its own memory.

    Args:
        model: the ONNX file's content.
    """

    def __init__(self, model: bytes, hidden_dim: int, env: BatchedEnv) -> None:
        self._session = open_graph(model)
        self.q_values: torch.Tensor | None = None
        """[E, A, U], not masked: those of the last `act`, for who watches."""
        self._shape, self._device = (env.n_envs, env.info.n_agents), env.device
        self._agent_id = np.tile(np.arange(env.info.n_agents), env.n_envs)
        self._last_action = np.full(len(self._agent_id), NO_ACTION)
        self._hidden = np.zeros((len(self._agent_id), hidden_dim), np.float32)

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        fresh = np.repeat(slots.cpu().numpy(), self._shape[1])
        self._last_action[fresh] = NO_ACTION
        self._hidden[fresh] = 0.0

    def act(self, observation: Observation) -> torch.Tensor:
        self._last_action, q_values, self._hidden = self._session.run(
            ["action", "q_values", "next_hidden"],
            {
                "obs": observation.obs.flatten(0, 1).cpu().numpy(),
                "avail_actions": observation.avail_actions.flatten(0, 1).cpu().numpy(),
                "last_action": self._last_action,
                "agent_id": self._agent_id,
                "hidden": self._hidden,
            },
        )
        self.q_values = torch.from_numpy(q_values).view(*self._shape, -1)
        # A copy: the next `begin` writes into these.
        return torch.tensor(self._last_action, device=self._device).view(self._shape)
