"""The most that grpcio can do: handlers that answer the same bytes to everything.

    python -m benchmarks.peers.bare_grpcio PORT ANSWER_FILE

Serves `Act` and `ActStream` of the service, reads no message and runs no model.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvloop


async def serve(port: int, answer: bytes) -> None:
    async def act(_: bytes, __: Any) -> bytes:
        return answer

    async def act_stream(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for _request in requests:
            yield answer

    handlers: dict[str, Any] = {
        "Act": grpc.unary_unary_rpc_method_handler(act),
        "ActStream": grpc.stream_stream_rpc_method_handler(act_stream),
    }
    server = grpc.aio.server()
    service = grpc.method_handlers_generic_handler("unmix.v1.AgentService", handlers)
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
