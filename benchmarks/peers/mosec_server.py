"""The agent in mosec; runs in an environment of its own.

    AGENT_MODEL=MODEL.onnx AGENT_MAX_BATCH=64 python mosec_server.py --port PORT

`POST /inference` takes the naive server's body, and `agent_id` in it. Kindly so: msgspec for JSON,
and one worker, as the server has one core.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
from mosec import Server, Worker  # type: ignore[import-not-found, unused-ignore]
from onnx_agent import OnnxAgent  # type: ignore[import-not-found, unused-ignore]

MAX_BATCH = int(os.environ["AGENT_MAX_BATCH"])
WAIT_MS = 1


class Agent(Worker):  # type: ignore[misc, unused-ignore]
    def __init__(self) -> None:
        self._agent = OnnxAgent(os.environ["AGENT_MODEL"])

    def deserialize(self, data: bytes) -> Any:
        return msgspec.json.decode(data)

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)

    def forward(self, data: Any) -> Any:
        """A list of requests where batches are larger than one, else a request."""
        actions, hidden = self._agent.step(data if MAX_BATCH > 1 else [data])
        answers = [
            {"action": action, "next_hidden": row}
            for action, row in zip(actions.tolist(), hidden.tolist(), strict=True)
        ]
        return answers if MAX_BATCH > 1 else answers[0]


if __name__ == "__main__":
    server = Server()
    waiting = {"max_batch_size": MAX_BATCH, "max_wait_time": WAIT_MS} if MAX_BATCH > 1 else {}
    server.append_worker(Agent, num=1, **waiting)
    server.run()
