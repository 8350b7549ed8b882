"""One unit's policy run in its own process: no service, no connection, the same actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.client import Checkpoint, ServingClientError
from serving.models.agent_model import AgentModel, BadRow, Row
from serving.models.repository import load_model

_NO_ACTION = -1


class LocalAgent:
    """A unit with the model beside it, checked against its manifest as the service checks it.

        agent = LocalAgent(Path("models/3s5z/1"), agent_id=0)
        agent.begin_episode()
        action = agent.act(obs, avail_actions)

    It has the methods of `serving.client.Unit`. onnxruntime must be installed (`unmix[serve]`).
    """

    def __init__(self, folder: Path, agent_id: int) -> None:
        """
        Args:
            folder: `models/NAME/VERSION`.

        Raises:
            serving.errors.ModelInvalid: with the reason.
            ValueError: the model has no such agent.
        """
        self.agent = load_model(folder)
        if not 0 <= agent_id < self.agent.n_agents:
            known = f"{self.agent.label} has agents 0 to {self.agent.n_agents - 1}"
            raise ValueError(f"{known}, not {agent_id}")
        self.agent_id = agent_id
        self.checkpoint: Checkpoint | None = None
        """Where the unit is after its last step; None before an episode's first."""

    def begin_episode(self) -> None:
        """Forget the memory; the next step is an episode's first."""
        self.checkpoint = None

    def resume(self, checkpoint: Checkpoint) -> None:
        """Let the next step be the one after this, whatever came before."""
        self.checkpoint = checkpoint

    def act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        """The unit's action.

        Args:
            obs: [O] numbers; taken as float32.
            avail_actions: [U] truth values.

        Raises:
            ServingClientError: naming what does not fit, with the status "INVALID_ARGUMENT".
        """
        hidden, last_action = self.agent.first_hidden, _NO_ACTION
        if self.checkpoint is not None:
            hidden, last_action = self.checkpoint.hidden, self.checkpoint.last_action
        own, mask = _checked(self.agent, obs, avail_actions)
        (result,) = self.agent.step([Row(own, mask, last_action, self.agent_id, hidden)])
        if isinstance(result, BadRow):
            raise ServingClientError("INVALID_ARGUMENT", f"{result.field}: {result.message}")
        self.checkpoint = Checkpoint(self.agent.version, result.next_hidden, result.action)
        return result.action

    def close(self) -> None:
        """There is nothing to close."""


def _checked(
    agent: AgentModel, obs: npt.ArrayLike, avail_actions: npt.ArrayLike
) -> tuple[bytes, bytes]:
    own, mask = np.asarray(obs, "<f4"), np.asarray(avail_actions, np.bool_)
    for field, given, size in (
        ("obs", own, agent.obs_bytes // 4),
        ("avail_actions", mask, agent.n_actions),
    ):
        if given.shape != (size,):
            fault = f"{field}: {size} values are expected, not {list(given.shape)}"
            raise ServingClientError("INVALID_ARGUMENT", fault)
    if not mask.any():
        raise ServingClientError("INVALID_ARGUMENT", "avail_actions: none is available")
    return own.tobytes(), mask.tobytes()
