"""The agent in MLServer, which imports this in an environment of its own."""

from __future__ import annotations

from mlserver import MLModel  # type: ignore[import-not-found, unused-ignore]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found, unused-ignore]
from mlserver.types import (  # type: ignore[import-not-found, unused-ignore]
    InferenceRequest,
    InferenceResponse,
)
from onnx_agent import INPUTS, OnnxAgent  # type: ignore[import-not-found, unused-ignore]


class Agent(MLModel):  # type: ignore[misc, unused-ignore]
    async def load(self) -> bool:
        self._agent = OnnxAgent(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        row = {
            name: given[name].reshape(-1) if name in ("obs", "avail_actions", "hidden")
            else given[name].reshape(-1)[0]
            for name in INPUTS
        }  # fmt: skip
        action, next_hidden = self._agent.step([row])
        outputs = [
            NumpyCodec.encode_output("action", action.reshape(1, 1)),
            NumpyCodec.encode_output("next_hidden", next_hidden),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
