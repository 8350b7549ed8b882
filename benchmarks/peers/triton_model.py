"""The agent in Triton's Python backend, which imports this as a model's `model.py`.

PyPI has no ONNX backend for Triton: with that one it would be faster. Where the configuration has
`episodes`, memories and last actions are held here, by the sequence that a request names.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found, unused-ignore]
from onnx_agent import OnnxAgent  # type: ignore[import-not-found, unused-ignore]

Memory = tuple[Any, int]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._agent = OnnxAgent(parameters["onnx"]["string_value"])
        self._first: Memory = np.zeros(int(parameters["hidden_dim"]["string_value"])), -1
        self._holds = "episodes" in parameters
        self._memories: dict[Any, Memory] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        """All that wait, in one run."""
        rows = [self._row(request) for request in requests]
        actions, hidden = self._agent.step(rows)
        answers = []
        for index, request in enumerate(requests):
            action, next_hidden = actions[index : index + 1], hidden[index : index + 1]
            outputs = [triton.Tensor("action", action.reshape(1, 1))]
            if self._holds:
                self._memories[request.correlation_id()] = next_hidden[0], int(action[0])
            else:
                outputs.append(triton.Tensor("next_hidden", next_hidden))
            answers.append(triton.InferenceResponse(output_tensors=outputs))
        return answers

    def _row(self, request: Any) -> dict[str, Any]:
        row = {name: _tensor(request, name) for name in ("obs", "avail_actions", "agent_id")}
        row["agent_id"] = row["agent_id"][0]
        if not self._holds:
            hidden, last_action = _tensor(request, "hidden"), _tensor(request, "last_action")[0]
        elif _tensor(request, "start")[0]:
            hidden, last_action = self._first
        else:
            hidden, last_action = self._memories[request.correlation_id()]
        return row | {"hidden": hidden, "last_action": last_action}


def _tensor(request: Any, name: str) -> Any:
    return triton.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)
