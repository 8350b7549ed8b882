"""Checkpoints: whole or not there, noticed when damaged, and safe to read."""

from __future__ import annotations

import errno
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.checkpoint import (
    KEEP,
    CheckpointError,
    DamagedCheckpointError,
    load,
    load_agent,
    load_last,
    records_from_state,
    records_to_state,
    save,
    save_last,
    tidy,
)
from training.config import TrainConfig
from training.run_folder import RunFolder, RunFolderError, find_run_folder, new_run_folder
from training.types import BattleRecord


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    return folder


def state(number: int) -> dict[str, Any]:
    return {"number": number, "weights": torch.full((40,), float(number))}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    content: dict[str, Any] = {
        "weights": torch.arange(6.0).view(2, 3),
        "random": generator.bit_generator.state,  # holds integers of 128 bits
        "torch_random": torch.Generator().manual_seed(4).get_state(),
        "nested": [{"a": None, "b": True}, ("c", 0.1)],
    }
    path = tmp_path / "one.pt"
    save(content, path)
    back = load(path)
    assert torch.equal(back["weights"], content["weights"])
    assert torch.equal(back["torch_random"], content["torch_random"])
    assert back["nested"] == content["nested"]
    resumed = np.random.default_rng()
    resumed.bit_generator.state = back["random"]
    assert resumed.random() == generator.random()


def test_every_truncation_and_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "one.pt"
    save(state(1), path)
    content = path.read_bytes()
    draw = random.Random(1)
    for _ in range(200):
        path.write_bytes(content[: draw.randrange(len(content))])
        with pytest.raises(DamagedCheckpointError, match=r"one\.pt"):
            load(path)
        place = draw.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(DamagedCheckpointError, match=r"one\.pt"):
            load(path)
    path.write_bytes(content)
    assert load(path)["number"] == 1


def test_the_one_before_a_damaged_one_is_used_with_a_warning_that_names_it(
    folder: RunFolder,
) -> None:
    for number in (10, 20, 30):
        save_last(folder, state(number), number)
    newest = folder.checkpoints / "last-000000000030.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"last-000000000030\.pt: the checkpoint is damaged"):
        back = load_last(folder)
    assert back is not None
    assert back["number"] == 20
    (folder.checkpoints / ".last-000000000040.pt").write_bytes(b"half written")
    tidy(folder)
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == [
        "last-000000000010.pt",
        "last-000000000020.pt",
        "last-000000000030.damaged",
    ]


def test_if_all_are_damaged_the_folder_is_named(folder: RunFolder) -> None:
    assert load_last(folder) is None
    save_last(folder, state(1), 1)
    (folder.checkpoints / "last-000000000001.pt").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(CheckpointError, match="all checkpoints are dam"),
    ):
        load_last(folder)


def test_only_the_newest_few_are_kept(folder: RunFolder) -> None:
    for number in (900, 1000, 20_000, 1_000_000):
        save_last(folder, state(number), number)
    left = sorted(folder.checkpoints.iterdir())
    assert len(left) == KEEP
    assert [load(path)["number"] for path in left] == [1000, 20_000, 1_000_000]


@pytest.mark.parametrize(("place", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_full_disk_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str
) -> None:
    path = tmp_path / "one.pt"
    save(state(1), path)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(place, name, fail)
        with pytest.raises(CheckpointError, match=r"one\.pt: cannot write .* No space left"):
            save(state(2), path)
    assert load(path)["number"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_reading_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "one.pt"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    save({"payload": Payload()}, path)
    with pytest.raises(pickle.UnpicklingError):
        load(path)
    assert not (tmp_path / "ran").exists()


def test_battles_come_back_from_their_tensors() -> None:
    draw = np.random.default_rng(1)
    battles = [
        BattleRecord(
            battle_id=2**40 + n,
            actions=draw.integers(0, 9, (length, 3), dtype=np.uint8),
            episode_return=float(draw.random()),
            battle_won=n == 1,
            dead_allies=n,
            dead_enemies=3 - n,
        )
        for n, length in enumerate((4, 1, 7))
    ]
    back = records_from_state(records_to_state(battles))
    for one, other in zip(back, battles, strict=True):
        assert np.array_equal(one.actions, other.actions)
        assert one.battle_id == other.battle_id
        assert one.episode_return == other.episode_return
        assert one.battle_won is other.battle_won
        assert (one.dead_allies, one.dead_enemies) == (other.dead_allies, other.dead_enemies)
    assert records_from_state(records_to_state([])) == []


def test_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load_agent(tmp_path / "nothing")
    with pytest.raises(RunFolderError, match="nothing: no run here"):
        find_run_folder(tmp_path, "nothing")


def test_a_second_trainer_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    message = f"process {os.getpid()} is training here"
    with folder.lock(), pytest.raises(RunFolderError, match=message), folder.lock():
        pass
    with folder.lock():
        pass


def test_a_new_run_gets_a_name_that_is_free(tmp_path: Path) -> None:
    config = TrainConfig()
    (tmp_path / "-qmix-1").mkdir()
    assert new_run_folder(tmp_path, config, None).path.name == "-qmix-1-2"
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunFolderError, match="there is a run already; `--resume"):
        new_run_folder(tmp_path, config, "mine")
