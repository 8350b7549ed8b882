"""A stand-in for Triton's ONNX Runtime backend, which PyPI does not have.

In a folder of backends it is `onnxruntime/model.py`, beside Triton's `python/`
(docs/standards.md). Then Triton loads `models/` with each `config.pbtxt` as it is. Where the real
backend would hand a sequence's new state to Triton, this keeps it by the sequence's id: Python has
no such call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._memories: dict[int, Any] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        feed = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        sequence, flags = request.correlation_id(), request.flags()
        # At a sequence's start Triton has put its initial state, zeros, into `hidden`.
        if not flags & triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            feed["hidden"] = self._memories[sequence]
        action, q_values, next_hidden = self._session.run(
            ["action", "q_values", "next_hidden"], feed
        )
        self._memories[sequence] = next_hidden
        if flags & triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            del self._memories[sequence]
        tensors = [triton.Tensor("action", action), triton.Tensor("q_values", q_values)]
        return triton.InferenceResponse(tensors)
