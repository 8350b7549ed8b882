"""The agent as the peers run it: onnxruntime on one thread, many rows a run.

Scripts in the peers' own environments import this, so it needs nothing but numpy and onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

INPUTS: dict[str, Any] = {
    "obs": np.float32,
    "avail_actions": np.bool_,
    "last_action": np.int64,
    "agent_id": np.int64,
    "hidden": np.float32,
}


class OnnxAgent:
    """A session and how it is fed."""

    def __init__(self, model: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def step(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
        """(actions [N], next_hidden [N, H]) of N rows, each with a value for every input."""
        feed = {name: np.array([row[name] for row in rows], kind) for name, kind in INPUTS.items()}
        action, next_hidden = self._session.run(("action", "next_hidden"), feed)
        return action, next_hidden
