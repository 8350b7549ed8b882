"""Versions that come and go, without a server: who begins where, who finishes where, who leaves."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.errors import ModelInvalid, ModelNotFound, ModelNotReady
from serving.metrics import Metrics
from serving.models import agent_model
from serving.models.control import ModelControl
from serving.models.repository import Repository, load_model
from serving.settings import Settings
from serving.steps.service import Act, AgentService
from tests.artifacts import Policy, write_artifact

OBS = np.linspace(-1, 1, 7, dtype="<f4").tobytes()
MASK = bytes([0, 1, 1, 0, 1])


def control_of(root: Path, **settings: Any) -> tuple[AgentService, ModelControl]:
    repository = Repository(root)
    repository.load_all()
    service = AgentService(repository, Metrics(), Settings(**settings))
    return service, ModelControl(service)


def states(control: ModelControl) -> dict[int, str]:
    return {
        status.version: "refused"
        if status.model is None
        else "retiring"
        if status.retiring
        else "latest"
        if status.latest
        else "ready"
        for status in control.statuses()
    }


async def test_running_episodes_finish_where_they_began(tmp_path: Path) -> None:
    write_artifact(tmp_path, Policy(seed=1), version=1)
    service, control = control_of(tmp_path)
    held = service.begin(0)
    _, carried = await service.act(Act(0, OBS, MASK), "rest")
    write_artifact(tmp_path, Policy(seed=2), version=2)
    await control.load("tiny", 2)
    assert states(control) == {1: "ready", 2: "latest"}
    await control.unload("tiny", 1)
    assert states(control) == {1: "retiring", 2: "latest"}
    assert service.begin(0).model.version == 2
    assert (await service.step(held, OBS, MASK, "rest")) == carried
    resumed = Act(0, OBS, MASK, carried.action, carried.next_hidden, "tiny", 1)
    model, result = await service.act(resumed, "rest")
    assert model.version == 1
    assert result == await service.step(held, OBS, MASK, "rest")
    again = service.begin(0, "tiny", 1, carried.next_hidden, carried.action)
    assert await service.step(again, OBS, MASK, "rest") == result
    for name in ("tiny", ""):
        with pytest.raises(ModelNotFound, match="no version 1; there is 2"):
            service.begin(0, name, 1)


async def test_a_version_leaves_when_its_last_held_episode_has_ended(tmp_path: Path) -> None:
    for version in (1, 2):
        write_artifact(tmp_path, version=version)
    service, control = control_of(tmp_path)
    one, two = service.begin(0, version=1), service.begin(1, version=1)
    gone = weakref.ref(one.model)
    await control.unload("tiny", 1)
    await service.step(one, OBS, MASK, "rest")
    assert [service.drop_finished(), one.model.n_episodes] == [[], 2]
    del one
    assert service.drop_finished() == []
    del two
    assert [model.version for model in service.drop_finished()] == [1]
    assert states(control) == {2: "latest"}
    gc.collect()
    assert gone() is None
    assert 'version="1"' not in service.metrics.exposition("")[0].decode()


async def test_a_model_is_freed_though_it_was_there_before_the_freeze(tmp_path: Path) -> None:
    """What a server has loaded at its start is out of the collector's sight for good."""
    for version in (1, 2):
        write_artifact(tmp_path, version=version)
    service, control = control_of(tmp_path)
    gone = weakref.ref(service.repository.resolve("tiny", 1))
    gc.collect()
    gc.freeze()
    try:
        await control.unload("tiny", 1)
        assert len(service.drop_finished()) == 1
        gc.collect()
        assert gone() is None
    finally:
        gc.unfreeze()


async def test_carried_episodes_keep_a_version_as_long_as_they_are_stepped(tmp_path: Path) -> None:
    for version in (1, 2):
        write_artifact(tmp_path, version=version)
    service, control = control_of(tmp_path, session_ttl_s=0.2)
    _, result = await service.act(Act(0, OBS, MASK, version=1), "rest")
    await control.unload("tiny", 1)
    for _ in range(4):
        await asyncio.sleep(0.08)
        assert service.drop_finished() == []
        act = Act(0, OBS, MASK, result.action, result.next_hidden, version=1, model="tiny")
        _, result = await service.act(act, "rest")
    await asyncio.sleep(0.25)
    assert len(service.drop_finished()) == 1
    with pytest.raises(ModelNotFound):
        await service.act(act, "rest")


async def test_a_version_means_one_policy_as_long_as_it_is_played(tmp_path: Path) -> None:
    write_artifact(tmp_path, Policy(seed=1), version=1)
    service, control = control_of(tmp_path)
    serving = service.repository.resolve()
    assert await control.load("tiny", 1) is serving
    shutil.rmtree(tmp_path / "tiny" / "1")
    write_artifact(tmp_path, Policy(seed=2), version=1)
    episode = service.begin(0)
    with pytest.raises(ModelInvalid, match="takes steps with other contents"):
        await control.load("tiny", 1)
    await control.unload("tiny", 1)
    with pytest.raises(ModelInvalid, match="takes steps with other contents"):
        await control.load("tiny", 1)
    del episode
    service.drop_finished()
    assert (await control.load("tiny", 1)).sha256 != serving.sha256


async def test_unloading_is_undone_by_loading_and_by_nothing_else(tmp_path: Path) -> None:
    write_artifact(tmp_path, version=1)
    service, control = control_of(tmp_path)
    serving, episode = service.repository.resolve(), service.begin(0)
    await control.unload("tiny", 1)
    assert not service.ready
    with pytest.raises(ModelNotReady, match="no model is loaded"):
        service.begin(0)
    await control.scan()
    assert states(control) == {1: "retiring"}
    assert await control.load("tiny", 1) is serving is episode.model
    assert states(control) == {1: "latest"}
    await control.unload("tiny", 1)
    with pytest.raises(ModelNotFound, match="not loaded"):
        await control.unload("tiny", 1)


async def test_a_scan_loads_what_is_new_and_unloads_what_has_gone(tmp_path: Path) -> None:
    write_artifact(tmp_path, version=1)
    service, control = control_of(tmp_path)
    write_artifact(tmp_path, version=3)
    write_artifact(tmp_path, name="other")
    (write_artifact(tmp_path, version=2) / "model.onnx").write_bytes(b"junk")
    await control.scan()
    assert [(it.name, it.version, it.model is not None) for it in control.statuses()] == [
        ("other", 1, True), ("tiny", 1, True), ("tiny", 2, False), ("tiny", 3, True)
    ]  # fmt: skip
    for gone in ("other/1", "tiny/1", "tiny/2"):
        shutil.rmtree(tmp_path / gone)
    await control.scan()
    service.drop_finished()
    assert [(it.name, it.version) for it in control.statuses()] == [("other", 1), ("tiny", 3)]
    shutil.rmtree(tmp_path)
    await control.scan()
    assert [(it.name, it.version) for it in control.statuses()] == [("other", 1), ("tiny", 3)]


async def test_a_refused_version_is_tried_again_when_it_has_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_artifact(tmp_path, version=1)
    _, control = control_of(tmp_path)
    folder = write_artifact(tmp_path, version=2)
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[:100])  # a copy that is not done yet
    for _ in range(3):
        await control.scan()
    assert states(control) == {1: "latest", 2: "refused"}
    assert sum("refused" in record.message for record in caplog.records) == 1
    (folder / "model.onnx").write_bytes(whole)
    await control.scan()
    assert states(control) == {1: "ready", 2: "latest"}


@pytest.mark.parametrize(("name", "version"), [("tiny", 2), ("nothing", 1), ("..", 1), ("", 0)])
async def test_what_is_not_in_the_folder_is_not_loaded(
    tmp_path: Path, name: str, version: int
) -> None:
    write_artifact(tmp_path)
    _, control = control_of(tmp_path)
    with pytest.raises(ModelNotFound, match="no folder of that model and version"):
        await control.load(name, version)


async def test_steps_go_on_while_a_version_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, version=1)
    service, control = control_of(tmp_path)
    write_artifact(tmp_path, version=2)
    stepped = asyncio.Event()
    loop = asyncio.get_running_loop()
    read = service.repository.read

    def slow(name: str, version: int) -> agent_model.AgentModel:
        # Loading waits for a step, which waits for the loop: on the loop this would never end.
        asyncio.run_coroutine_threadsafe(stepped.wait(), loop).result(timeout=20)
        return read(name, version)

    monkeypatch.setattr(service.repository, "read", slow)
    loading = asyncio.create_task(control.load("tiny", 2))
    await asyncio.sleep(0.05)
    model, _ = await service.act(Act(0, OBS, MASK), "rest")
    assert (model.version, loading.done()) == (1, False)
    stepped.set()
    assert (await loading).version == 2


def test_a_model_that_takes_too_long_is_refused(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_model, "SELF_TEST_S", 0.0)
    with pytest.raises(ModelInvalid, match="the self-test took over 0 s"):
        load_model(models / "tiny" / "1")
