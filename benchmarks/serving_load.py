"""Callers of a step service, each with the next message ready when its answer has come.

wrk and h2load (Debian's `wrk` and `nghttp2-client`) send what needs no conversation; for streams,
whose messages wait for each other's answers, run as a program this is the caller:

    python -m benchmarks.serving_load HOST:PORT PATH CONNECTIONS SECONDS REQUEST_FILE BEGIN_FILE

where PATH names the gRPC method. It prints a `Load` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

METHOD = "/unmix.v1.AgentService/"
NUMBERED = b"episode-0000"
"""In a stream's messages, stands for a name that no other stream has."""
_WRK = """
wrk.method = "POST"
wrk.body = io.open({body!r}, "rb"):read("*a")
wrk.headers["content-type"] = "{content_type}"
done = function(summary, latency, requests)
  io.write(string.format('LOAD {{"n": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "errors": %d}}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, summary.errors.status + summary.errors.connect
    + summary.errors.read + summary.errors.write))
end
"""  # noqa: E501 - Lua


@dataclass(frozen=True)
class Load:
    """What callers saw."""

    n: int
    """Messages answered."""
    seconds: float
    p50_ms: float
    p99_ms: float


def post(
    url: str,
    body: bytes,
    connections: int,
    seconds: int,
    content_type: str = "application/json",
) -> Load:
    """POST this body again and again, by wrk. Raises: RuntimeError: not every answer was a 2xx."""
    with tempfile.TemporaryDirectory() as folder:
        body_file, script = Path(folder) / "body", Path(folder) / "post.lua"
        body_file.write_bytes(body)
        script.write_text(_WRK.format(body=str(body_file), content_type=content_type))
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            "10s",
            "-s",
            str(script),
            url,
        ]
        output = _output(command)
    found = json.loads(re.findall(r"LOAD (.*)", output)[-1])
    if found.pop("errors"):
        raise RuntimeError(f"{url} refused some of the load:\n{output}")
    return Load(**found)


def call(
    address: str, request: bytes, connections: int, seconds: int, path: str = f"{METHOD}Act"
) -> Load:
    """Unary calls, by h2load, which does not read a call's status: see that they succeed."""
    with tempfile.TemporaryDirectory() as folder:
        body_file, log = Path(folder) / "body", Path(folder) / "log"
        body_file.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
        n_connections = [f"-c{connections}", "-m1", f"-D{seconds}"]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        files = ["-d", str(body_file), "--log-file", str(log)]
        _output(["h2load", *n_connections, *headers, *files, f"http://{address}{path}"])
        lines = [line.split() for line in log.read_text().splitlines()]
    milliseconds = [int(taken) / 1e3 for _, status, taken in lines if status == "200"]
    return load_of(milliseconds, seconds)


def stream(
    address: str,
    rows: int,
    begin: bytes,
    request: bytes,
    connections: int,
    seconds: int,
    path: str = "",
) -> Load:
    """Streams, each over a connection of its own: `begin` first, then `request` again and again.

    Args:
        rows: of a team's message; 0 for unit streams.
        path: of another service's method.
    """
    path = path or f"{METHOD}{'TeamStream' if rows else 'ActStream'}"
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, content in (("request", request), ("begin", begin)):
            file = Path(folder) / name
            file.write_bytes(content)
            files.append(str(file))
        module = [sys.executable, "-m", "benchmarks.serving_load"]
        output = _output([*module, address, path, str(connections), f"{seconds}", *files])
    return Load(**json.loads(output))


def post_on_time(url: str, body: bytes, rate: float, connections: int, seconds: int) -> Load:
    """POST this body so many times a second; latencies count from when a request was due.

    Raises: RuntimeError: a request was refused, or not answered.
    """
    with tempfile.TemporaryDirectory() as folder:
        body_file = Path(folder) / "body"
        body_file.write_bytes(body)
        module = [sys.executable, "-m", "benchmarks.open_loop"]
        output = _output([*module, url, f"{rate}", str(connections), f"{seconds}", str(body_file)])
    return Load(**json.loads(output))


def _output(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def load_of(milliseconds: list[float], seconds: float) -> Load:
    hundredths = statistics.quantiles(milliseconds, n=100)
    return Load(len(milliseconds), seconds, hundredths[49], hundredths[98])


async def _converse(address: str, path: str, begin: bytes, request: bytes, end: float,
                    milliseconds: list[float]) -> None:  # fmt: skip
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        conversation: Any = channel.stream_stream(path)()
        message = begin
        while time.monotonic() < end:
            start = time.perf_counter()
            await conversation.write(message)
            if await conversation.read() is grpc.aio.EOF:
                raise RuntimeError(f"a stream was ended: {await conversation.details()}")
            if message is request:
                milliseconds.append(1e3 * (time.perf_counter() - start))
            message = request
        await conversation.done_writing()
        # Triton has died of streams that were cut off.
        if await conversation.read() is not grpc.aio.EOF:
            raise RuntimeError("a stream answered once more than it was asked")


async def _main(address: str, path: str, connections: str, seconds: str, *files: str) -> None:
    request, begin = (Path(file).read_bytes() for file in files)
    milliseconds: list[float] = []
    start = time.monotonic()
    end = start + int(seconds)
    names = [b"episode-%04d" % number for number in range(1, int(connections) + 1)]
    await asyncio.gather(
        *[
            _converse(address, path, begin.replace(NUMBERED, name),
                      request.replace(NUMBERED, name), end, milliseconds)
            for name in names
        ]
    )  # fmt: skip
    print(json.dumps(asdict(load_of(milliseconds, time.monotonic() - start))))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
