"""A real Prometheus with the shipped configuration, and load for it to see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np

from serving.client import ServingClientError, Units
from serving.client.team import TeamUnits
from tests.artifacts import SMALL
from tests.serving.running import RunningServer
from tests.venvs import ROOT

START_S = 30.0
BURST = 16
"""Messages that arrive together."""
SETTINGS = {"max_queue": 128}
_OBS = np.zeros(SMALL.obs_dim, np.float32)
_OPEN = np.ones(SMALL.n_actions, np.bool_)


class Prometheus:
    """Asks these addresses, by nothing but a file of targets beside the shipped files."""

    def __init__(self, folder: Path, targets: list[str]) -> None:
        shutil.copytree(ROOT / "deploy" / "prometheus", folder / "etc")
        (folder / "etc" / "targets" / "test.yml").write_text(f"- targets: {targets}\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._http = httpx.Client(base_url=f"http://{address}", trust_env=False)
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'etc' / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def close(self) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(START_S)
        self._log.close()

    def wait_for(self, query: str, value: float) -> None:
        """Until it answers at least this much. Raises: AssertionError: it did not."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError, json.JSONDecodeError):  # not up yet
                if sum(self.ask(query)) >= value:
                    return
            time.sleep(0.2)
        self._log.seek(0)
        raise AssertionError(f"{query} is {self.ask(query)}\n{self._log.read()}")

    def ask(self, query: str) -> list[float]:
        """A query's values now. Raises: AssertionError: it is no query."""
        return [float(series["value"][1]) for series in self._get("query", {"query": query})]

    def rules(self) -> dict[str, str]:
        """The state of every alert, by its name."""
        answer = self._http.get("/api/v1/rules").json()
        groups = answer["data"]["groups"]
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}

    def _get(self, path: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
        answer = self._http.get(f"/api/v1/{path}", params=parameters).json()
        if answer.get("status") != "success":
            raise AssertionError(f"{parameters}: {answer}")
        return cast("list[dict[str, Any]]", answer["data"]["result"])


@contextlib.contextmanager
def load(server: RunningServer) -> Iterator[Counter[int]]:
    """Within, every door has callers; yields how often REST answered what."""
    answers: Counter[int] = Counter()
    stop = threading.Event()
    threads = [
        threading.Thread(target=lambda: asyncio.run(_bursts(server.rest, answers, stop))),
        threading.Thread(target=_conversations, args=(server, stop)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(START_S)


async def _bursts(url: str, answers: Counter[int], stop: threading.Event) -> None:
    """Messages that each fill the queue, faster than they are read."""
    row = {"agent_id": 0, "obs": _OBS.tolist(), "avail_actions": _OPEN.tolist()}
    body = json.dumps({"rows": [row] * SETTINGS["max_queue"]})
    limits = httpx.Limits(max_connections=BURST)
    async with httpx.AsyncClient(base_url=url, limits=limits, trust_env=False) as http:
        while not stop.is_set():
            sent = [http.post("/act", content=body) for _ in range(BURST)]
            answers.update([answer.status_code for answer in await asyncio.gather(*sent)])
            await asyncio.sleep(0.5)


def _conversations(server: RunningServer, stop: threading.Event) -> None:
    """One step at a time at each door."""
    url = f"grpc://{server.grpc}/tiny"
    with (
        TeamUnits(url, [0]) as team,
        Units(url, [0]) as streams,
        Units(url, [0], memory="carried") as unary,
        Units(f"{server.rest}/tiny", [0]) as sessions,
    ):
        every = team, streams, unary, sessions
        for units in every:
            units.begin_episode()
        while not stop.is_set():
            for units in every:
                try:
                    units.act([_OBS], [_OPEN])
                except ServingClientError:  # turned away for a burst, which ends a stream
                    units.begin_episode()
            stop.wait(0.05)
