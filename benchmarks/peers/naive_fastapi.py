"""What one would write first: FastAPI, pydantic, and a run of onnxruntime for every request.

    python -m benchmarks.peers.naive_fastapi MODEL.onnx PORT async|def

Kindly so: one onnxruntime thread, as the server has one core; with `async`, a handler that spares
the thread pool, while `def` is what FastAPI's documents advise for code that blocks; uvicorn with
uvloop and httptools.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class ActRequest(BaseModel):
    obs: list[float]
    avail_actions: list[bool]
    last_action: int
    hidden: list[float]


class ActAnswer(BaseModel):
    action: int
    next_hidden: list[float]


def create_app(model: str, how: str = "async") -> FastAPI:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    app = FastAPI()

    def act(agent_id: int, request: ActRequest) -> ActAnswer:
        feed = {
            "obs": np.array([request.obs], np.float32),
            "avail_actions": np.array([request.avail_actions], np.bool_),
            "last_action": np.array([request.last_action], np.int64),
            "agent_id": np.array([agent_id], np.int64),
            "hidden": np.array([request.hidden], np.float32),
        }
        action, next_hidden = session.run(("action", "next_hidden"), feed)
        return ActAnswer(action=int(action[0]), next_hidden=next_hidden[0].tolist())

    async def act_on_the_loop(agent_id: int, request: ActRequest) -> ActAnswer:
        return act(agent_id, request)

    app.post("/agents/{agent_id}/act")(act if how == "def" else act_on_the_loop)
    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1], sys.argv[3]), port=int(sys.argv[2]), log_level="error")
