"""Several processes behind one pair of ports: one service to its callers, whichever answers."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from serving.check import check
from serving.client import Units
from serving.models.agent_model import AgentModel, Row, StepResult
from serving.models.repository import load_model
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from serving.process.supervisor import Supervisor, supervise
from serving.process.worker import share
from serving.settings import Settings, SetupError
from tests.artifacts import Policy, write_artifact
from tests.serving.running import RunningServer
from tests.serving.test_server import run

OBS = np.linspace(-1, 1, 7, dtype="<f4")
MASK = np.array([False, True, True, False, True])
STEP: dict[str, Any] = {"obs": OBS.tolist(), "avail_actions": MASK.tolist()}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def pair(models: Path) -> Iterator[RunningServer]:
    with RunningServer(models, {"workers": 2, "max_body_bytes": 4096}) as running:
        yield running


@pytest.fixture
def each(pair: RunningServer) -> Iterator[list[httpx.Client]]:
    with connections(pair) as found:
        yield found


@contextlib.contextmanager
def connections(server: RunningServer) -> Iterator[list[httpx.Client]]:
    """A kept connection to each of two workers, which the kernel chose; the first worker first."""
    with contextlib.ExitStack() as stack:
        found: dict[str, httpx.Client] = {}
        for _ in range(200):
            client = stack.enter_context(httpx.Client(base_url=server.rest, trust_env=False))
            found.setdefault(client.get("/readyz").json()["worker"], client)
            if len(found) == 2:
                break
        assert sorted(found) == ["1", "2"]
        yield [found["1"], found["2"]]


def samples(client: httpx.Client) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(client.get("/metrics").text)
        for sample in family.samples
    }


def n_ok(client: httpx.Client) -> float:
    return samples(client).get(("unmix_requests_total", (("code", "ok"), ("door", "rest"))), 0.0)


def children(server: RunningServer) -> list[int]:
    pid = server.process.pid
    return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def actions(model: AgentModel, n_steps: int) -> list[int]:
    """What agent 0 does when it sees the same thing again and again."""
    hidden, last, taken = model.first_hidden, -1, []
    for _ in range(n_steps):
        (result,) = model.step([Row(OBS.tobytes(), MASK.tobytes(), last, 0, hidden)])
        assert isinstance(result, StepResult)
        hidden, last = result.next_hidden, result.action
        taken.append(last)
    return taken


def test_both_workers_answer_and_say_who_they_are(each: list[httpx.Client]) -> None:
    for number, client in zip("12", each, strict=True):
        assert client.get("/livez").json() == {"status": "alive", "worker": number}
        assert client.get("/readyz").json() == {"status": "ready", "worker": number}
        assert client.post("/agents/0/act", json=STEP).status_code == 200
        assert client.head("/readyz").status_code == 405


def test_a_session_is_stepped_through_either_worker(
    each: list[httpx.Client], model: AgentModel
) -> None:
    for opener in each:
        opened = opener.post("/sessions", json={"agent_id": 0})
        assert opened.status_code == 201
        session = opened.json()["session"]
        for _ in range(2):
            taken = [
                each[step % 2].post("/agents/0/act", json=STEP | {"session": session})
                for step in range(6)
            ]
            assert [it.json()["action"] for it in taken] == actions(model, 6)
            assert {it.headers["content-type"] for it in taken} == {"application/json"}
            for client in each:
                assert client.post(f"/sessions/{session}/reset").status_code == 200
        spelled = json.dumps(STEP)[:-1] + f', "\\u0073ession": "{session}"}}'
        for client in each:
            assert client.post("/agents/0/act", content=spelled).status_code == 200
        other = each[1] if opener is each[0] else each[0]
        assert other.delete(f"/sessions/{session}").status_code == 204
        for client in each:
            assert client.delete(f"/sessions/{session}").status_code == 404


def test_what_is_wrong_with_a_handed_over_step_is_said_as_anywhere(
    each: list[httpx.Client],
) -> None:
    session = each[0].post("/sessions", json={"agent_id": 0}).json()["session"]
    bodies = [
        STEP | {"session": session, "obs": [0.0]},
        STEP | {"session": session, "hidden": [0.0]},
        STEP | {"session": session + "x"},
        STEP | {"session": "2.none"},
        STEP | {"session": "257.none"},
        STEP | {"session": ".none"},
        STEP | {"session": 3},
        STEP | {"session": session, "obs": [0.0] * 4096},
    ]
    for body in bodies:
        here, there = (client.post("/agents/0/act", json=body) for client in each)
        assert here.status_code == there.status_code
        assert here.status_code in {400, 404, 413, 422}
        assert here.json() == there.json()
        assert there.headers["content-type"] == "application/problem+json"
    named = each[1].post("/agents/0/act", json=bodies[0], headers={"x-request-id": "mine"})
    assert named.headers.get_list("x-request-id") == ["mine"]
    assert each[1].post("/agents/0/act", content=b'{"session": "\\').status_code == 400


def test_metrics_are_everybodys_on_every_page(each: list[httpx.Client]) -> None:
    before = n_ok(each[0])
    for client in (each[0], each[0], each[1]):
        client.post("/agents/0/act", json=STEP)
    opened = [client.post("/sessions", json={"agent_id": 0}).json()["session"] for client in each]
    for page in map(samples, each):
        total = page["unmix_requests_total", (("code", "ok"), ("door", "rest"))]
        assert total == before + 3
        assert page["unmix_step_duration_seconds_count", (("door", "rest"),)] >= total
        assert page["unmix_sessions", ()] >= 2
        assert page["unmix_workers", ()] == 2
        assert page["unmix_worker_restarts_total", ()] == 0
        assert page["unmix_models_refused", ()] == 0
        models = {value for (name, _), value in page.items() if name == "unmix_model_info"}
        assert models == {1.0}
        assert page["process_resident_memory_bytes", ()] > 60e6
    assert (
        each[0]
        .get("/metrics", headers={"accept": "application/openmetrics-text"})
        .text.endswith("# EOF\n")
    )
    for session in opened:
        each[0].delete(f"/sessions/{session}")


def test_streams_reach_both_workers_and_logs_name_them(pair: RunningServer) -> None:
    with Units(f"grpc://{pair.grpc}/tiny", [0, 1, 2] * 8, "held") as units:
        units.begin_episode()
        units.act(np.tile(OBS, (24, 1)), np.tile(MASK, (24, 1)))
        # 24 connections: all on one worker once in 2^23 runs.
        with connections(pair) as each:
            assert samples(each[0])["unmix_streams", ()] == 24
    events = [json.loads(line) for line in pair.log if line.startswith("{")]
    ready = [event["worker"] for event in events if event["event"] == "worker ready"]
    assert sorted(ready) == [1, 2]


def listens_as(pid: int, number: int) -> bool:
    """Whether the process has a socket of this worker's name."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(it[6] in inodes for it in lines if len(it) > 7 and it[7].endswith(f"/{number}.sock"))


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_64_streams_loses_no_step(models: Path, workers: int) -> None:
    """Each step is answered as the undisturbed twin's, or refused as unavailable."""
    with RunningServer(models, {"workers": workers}) as running:
        channels = [grpc.insecure_channel(running.grpc, [("grpc.use_local_subchannel_pool", 1)])
                    for _ in range(8)]  # fmt: skip
        ends: list[tuple[grpc.StatusCode, int, list[int]]] = []
        busy = threading.Barrier(65)

        def play(channel: grpc.Channel) -> None:
            agents: Any = pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
            asked, taken, next_step = 0, [], threading.Semaphore(1)

            def requests() -> Iterator[pb.ActStreamRequest]:
                nonlocal asked
                while next_step.acquire(timeout=30):
                    asked += 1
                    yield pb.ActStreamRequest(
                        begin=pb.Episode() if asked == 1 else None,
                        obs=OBS.tobytes(),
                        avail_actions=MASK.tobytes(),
                        sequence=asked,
                    )

            try:
                for answer in agents.ActStream(requests()):
                    taken.append(answer.action)
                    if len(taken) == 3:
                        busy.wait(30)
                    next_step.release()
            except grpc.RpcError as error:
                ends.append((error.code(), asked - len(taken), taken))
            next_step.release()

        players = [threading.Thread(target=play, args=(channels[i % 8],)) for i in range(64)]
        for player in players:
            player.start()
        busy.wait(30)
        start = time.monotonic()
        running.terminate()
        assert running.process.wait(10) == 0
        assert time.monotonic() - start < 8
        for player in players:
            player.join(30)
        for channel in channels:
            channel.close()
    assert len(ends) == 64
    assert {code for code, _, _ in ends} == {grpc.StatusCode.UNAVAILABLE}
    assert {unanswered for _, unanswered, _ in ends} <= {0, 1}
    twin = actions_of(models, max(len(taken) for _, _, taken in ends))
    assert all(taken == twin[: len(taken)] for _, _, taken in ends)


def actions_of(models: Path, n_steps: int) -> list[int]:
    return actions(load_model(models / "tiny" / "1"), n_steps)


def test_a_service_outlives_its_workers_and_no_worker_its_parent(tmp_path: Path) -> None:
    """One service's hard life, in chapters, since each start takes seconds."""
    write_artifact(tmp_path, Policy(seed=1), version=1)
    before = set(glob.glob(f"{tempfile.gettempdir()}/unmix-*"))
    running = RunningServer(tmp_path, {"workers": 2, "watch_models_s": 0.2}).__enter__()
    with contextlib.closing(running.process.stderr), connections(running) as each:  # type: ignore[type-var]
        (folder,) = set(glob.glob(f"{tempfile.gettempdir()}/unmix-*")) - before
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        new_versions_reach_all_workers(tmp_path, each)
        a_killed_worker_is_replaced(running, each)
        a_worker_that_is_told_to_stop_is_replaced(running)
        workers = children(running)
        running.kill()
        wait_for(lambda: all(map(is_gone, workers)), 5)
        assert not Path(folder).exists()
    with RunningServer(tmp_path, ports=(int(running.rest.rpartition(":")[2]), 0)):
        pass  # the port is free


def new_versions_reach_all_workers(root: Path, each: list[httpx.Client]) -> None:
    write_artifact(root, Policy(seed=2), version=2)
    for client in each:
        wait_for(partial(newest_is, client, 2))


def newest_is(client: httpx.Client, version: int) -> bool:
    return bool(client.get("/models/tiny").json()["version"] == version)


def a_killed_worker_is_replaced(running: RunningServer, each: list[httpx.Client]) -> None:
    """And nothing that it counted is forgotten."""
    first, second = each
    for client in (first, second, second):
        assert client.post("/agents/0/act", json=STEP).status_code == 200
    session = second.post("/sessions", json={"agent_id": 0}).json()["session"]
    assert n_ok(first) == 3
    (killed,) = [pid for pid in children(running) if listens_as(pid, 2)]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: is_gone(killed))
    # Its session has ended with it: said as such, not as a fault of the server.
    body = STEP | {"session": session}
    assert first.post("/agents/0/act", json=body).status_code == 404
    assert n_ok(first) == 3
    wait_for(lambda: samples(first)["unmix_workers", ()] == 2)
    assert samples(first)["unmix_worker_restarts_total", ()] == 1
    with connections(running) as again:
        assert again[1].post("/agents/0/act", json=STEP).status_code == 200
        assert n_ok(again[0]) == n_ok(again[1]) == 4
        body["session"] = again[1].post("/sessions", json={"agent_id": 0}).json()["session"]
        assert again[0].post("/agents/0/act", json=body).status_code == 200
    (event,) = [json.loads(it) for it in running.log if '"a worker has ended"' in it]
    assert (event["worker"], event["code"]) == (2, -signal.SIGKILL)


def a_worker_that_is_told_to_stop_is_replaced(running: RunningServer) -> None:
    """So workers can be replaced one by one."""
    old = children(running)[0]
    os.kill(old, signal.SIGTERM)
    wait_for(lambda: is_gone(old))
    wait_for(lambda: len(children(running)) == 2)
    with connections(running):
        pass


def test_a_start_that_cannot_be_says_why_once() -> None:
    ports = ["--http-port", "0", "--grpc-port", "0", "--workers", "3"]
    ended = run(*ports, "--models", "/nothing/here")
    assert ended.returncode == 1
    assert ended.stderr.count("no usable model in /nothing/here") == 1
    assert "Traceback" not in ended.stderr


def test_five_starts_in_vain_are_the_end_if_nobody_serves(tmp_path: Path) -> None:
    supervisor = Supervisor(Settings(workers=2), tmp_path)
    assert not supervisor._goes_on(served=False)  # nobody has served yet: the first is enough
    supervisor = Supervisor(Settings(workers=2), tmp_path)
    supervisor._was_ready = True
    supervisor._slots[0].ready.set()
    assert all(supervisor._goes_on(served=False) for _ in range(9))
    assert supervisor._goes_on(served=True)
    supervisor._slots[0].ready.clear()
    assert [supervisor._goes_on(served=False) for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("taker", ["one", "two"])
def test_a_taken_port_is_no_start(server: RunningServer, pair: RunningServer, taker: str) -> None:
    taken = server if taker == "one" else pair
    for door, address in (("http", taken.rest), ("grpc", taken.grpc)):
        ports = {"http_port": 0, "grpc_port": 0}
        ports[f"{door}_port"] = int(address.rpartition(":")[2])
        with pytest.raises(SetupError, match=f"{door} port .*in use.*--{door}-port"):
            supervise(Settings(workers=2, **ports))  # type: ignore[arg-type]


def test_caps_of_the_service_are_shared_out() -> None:
    settings = share(Settings(workers=3, max_sessions=10, max_client_sessions=3, max_streams=1))
    assert (settings.max_sessions, settings.max_client_sessions, settings.max_streams) == (4, 1, 1)
    assert share(Settings()).max_sessions == Settings().max_sessions


def test_there_is_no_admin_door_to_one_of_several(models: Path) -> None:
    several = Settings(models=models, workers=2, http_port=0, grpc_port=0, admin_port=0)
    with pytest.raises(SetupError, match="set UNMIX_WATCH_MODELS_S"):
        supervise(several)
    assert next(it.text for it in check(several) if not it.good).startswith("workers: ")
    good = list(check(several.model_copy(update={"admin_port": None})))
    assert all(it.good for it in good)
    assert "workers: 2" in [it.text for it in good]
