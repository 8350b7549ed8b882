"""Versions come and go under load: no step is dropped, none is answered by another version.

`UNMIX_LONG_TESTS=1` makes it 200 reloads.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt

from serving.client import Memory, connect
from serving.models.agent_model import AgentModel, Row, StepResult
from serving.models.repository import load_model
from tests.artifacts import Policy, write_artifact, write_digest
from tests.serving.running import RunningServer

N_RELOADS = 200 if os.environ.get("UNMIX_LONG_TESTS") else 20
N_STEPS = 12
WAYS: list[tuple[str, Memory, int]] = [
    ("grpc", "held", 16),
    ("grpc", "carried", 4),
    ("http", "held", 4),
    ("http", "carried", 2),
]
OBS = np.random.default_rng(0).uniform(-1, 1, (N_STEPS, 7)).astype(np.float32)
MASK = np.ones(5, np.bool_)


def actions_of(model: AgentModel, agent: int) -> list[int]:
    """One episode, by the model alone."""
    hidden, last, actions = model.first_hidden, -1, []
    for obs in OBS:
        (result,) = model.step([Row(obs.tobytes(), MASK.tobytes(), last, agent, hidden)])
        assert isinstance(result, StepResult)
        hidden, last = result.next_hidden, result.action
        actions.append(last)
    return actions


class Game:
    """Who plays, by which versions, and what came of it."""

    def __init__(self) -> None:
        self.expected: dict[int, npt.NDArray[np.int64]] = {}
        """Actions [agent, T] by version."""
        self.newest = 1
        """New episodes begin on this one, or on what is being loaded."""
        self.over = False
        self.episodes: dict[int, int] = {}
        self.crossed = 0
        """Episodes that ended after their version had been followed by another."""

    async def play(self, url: str, agent: int, memory: Memory) -> None:
        async with connect(f"{url}/tiny", agent, memory, timeout_s=60) as unit:
            while not self.over:
                newest = self.newest
                await unit.begin_episode()
                played = [await unit.act(obs, MASK) for obs in OBS]
                assert unit.version >= newest, "an old version began a new episode"
                assert played == self.expected[unit.version][agent].tolist()
                self.crossed += self.newest > unit.version
                self.episodes[unit.version] = self.episodes.get(unit.version, 0) + 1


async def reload(game: Game, root: Path, admin: httpx.AsyncClient) -> None:
    """Publish and load a version after the other, a tenth of them broken; unload the one before."""
    for number in range(N_RELOADS):
        version = game.newest + 1
        aside = root.parent / f"aside-{number}"
        folder = write_artifact(aside, Policy(seed=version), version=version)
        write_digest(folder)
        model = load_model(folder)
        game.expected[version] = np.array([actions_of(model, agent) for agent in range(3)])
        target = root / "tiny" / str(version)
        if number % 10 == 5:
            data = bytearray((folder / "model.onnx").read_bytes())
            data[len(data) // 2] ^= 1
            (folder / "model.onnx").write_bytes(data)
            folder.rename(target)
            refused = await admin.post(f"/models/tiny/{version}/load")
            assert refused.status_code == 409
            assert (await admin.get("/models")).json()["models"][-1]["state"] == "refused"
            target.rename(root.parent / f"broken-{number}")
            continue
        folder.rename(target)
        loaded = await admin.post(f"/models/tiny/{version}/load")
        assert loaded.json()["latest"]
        game.newest = version
        assert (await admin.post(f"/models/tiny/{version - 1}/unload")).status_code == 200


async def test_no_step_is_dropped_and_none_is_another_versions(tmp_path: Path) -> None:
    root, game = tmp_path / "models", Game()
    model = load_model(write_artifact(root, Policy(seed=1)))
    game.expected[1] = np.array([actions_of(model, agent) for agent in range(3)])
    settings = {"admin_port": 0, "session_ttl_s": 2}
    settings |= {"step_timeout_s": 30}  # the machine's pace is not what is tested
    with RunningServer(root, settings) as running:
        urls = {"grpc": f"grpc://{running.grpc}", "http": running.rest}
        async with httpx.AsyncClient(
            base_url=running.admin, trust_env=False, timeout=60
        ) as admin, asyncio.TaskGroup() as players:  # fmt: skip
            for scheme, memory, n in WAYS:
                for unit in range(n):
                    players.create_task(game.play(urls[scheme], unit % 3, memory))
            await reload(game, root, admin)
            game.over = True
        assert game.newest == 1 + N_RELOADS - N_RELOADS // 10
        assert len(game.episodes) > N_RELOADS / 2, game.episodes
        assert game.crossed > 0
        metrics = httpx.get(f"{running.rest}/metrics", trust_env=False).text
        codes = [line for line in metrics.splitlines() if line.startswith("unmix_requests_total{")]
        assert codes
        assert all('code="ok"' in line for line in codes), codes
        async with httpx.AsyncClient(base_url=running.admin, trust_env=False) as admin:
            async with asyncio.timeout(30):
                while len((await admin.get("/models")).json()["models"]) > 1:
                    await asyncio.sleep(0.1)
