"""The page of trained agents: what it says of each, and that the committed one is up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.zoo import Command, ZooError, main

ROOT = Path(__file__).parents[2]


def put(models: Path, name: str, version: int, **training: Any) -> None:
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    manifest = {
        "map": name,
        "algorithm": "qmix",
        "files": {"model.onnx": {}, "curve.png": {}},
        "training": {
            "win_rate": 0.5,
            "win_rate_ci95": [0.4, 0.6],
            "win_rate_episodes": 1000,
            "win_rate_seed": 12345,
            "env_steps": 400384,
            "preset": "tuned",
            "seed": 1,
            **training,
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_each_model_has_the_row_of_its_newest_version(tmp_path: Path) -> None:
    put(tmp_path, "8m", 9)
    put(tmp_path, "8m", 10, win_rate=0.95, win_rate_ci95=[0.9345, 0.9622])
    put(tmp_path, "3m", 1)
    rows = [x for x in main(Command(tmp_path)).read_text().splitlines() if x.startswith("| `")]
    assert rows == [
        "| `3m` | [3m/1](3m/1/MODEL_CARD.md), QMIX | 50.0% (40.0% to 60.0%) | no "
        "| 1,000 battles of seed 12345 | 400,384 steps, preset tuned | 1 "
        "| [curve](3m/1/curve.png) |",
        "| `8m` | [8m/10](8m/10/MODEL_CARD.md), QMIX | 95.0% (93.5% to 96.2%) | yes "
        "| 1,000 battles of seed 12345 | 400,384 steps, preset tuned | 1 "
        "| [curve](8m/10/curve.png) |",
    ]


def test_a_page_that_is_out_of_date_is_found(tmp_path: Path) -> None:
    put(tmp_path, "3m", 1)
    with pytest.raises(ZooError, match="not what the manifests say"):
        main(Command(tmp_path, check=True))
    main(Command(tmp_path))
    main(Command(tmp_path, check=True))
    put(tmp_path, "3m", 2)
    with pytest.raises(ZooError, match="not what the manifests say"):
        main(Command(tmp_path, check=True))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="nowhere: no such folder"):
        main(Command(tmp_path / "nowhere"))
    put(tmp_path, "3m", 1)
    (tmp_path / "3m/1/manifest.json").write_text("{")
    with pytest.raises(ZooError, match=r"3m/1/manifest\.json: Expecting"):
        main(Command(tmp_path))


def test_the_committed_page_is_that_of_the_committed_models() -> None:
    main(Command(ROOT / "models", check=True))
