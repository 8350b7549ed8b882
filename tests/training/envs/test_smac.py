"""SMAC's own code beside ours, where there is a Python that has it: see `smac_conformance`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("s2clientprotocol.sc2api_pb2", reason="the extra sc2 is not installed")

from tests.training.envs.smac_conformance import differences, told_by_smac, told_by_us
from tests.training.envs.smac_faults import problems_on_3m, real_smac, run
from training.envs.sc2_api.installation import install

SMAC_PYTHON = os.environ.get("UNMIX_SMAC_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not SMAC_PYTHON, reason="UNMIX_SMAC_PYTHON names no Python that has SMAC (docs/sc2-api.md)"
)


@pytest.mark.parametrize(
    ("map_name", "more"), [("3m", ()), ("3s5z", ()), ("MMM2", ()), ("2s3z", ("heuristic",))]
)
def test_smac_shows_what_we_show(tmp_path: Path, map_name: str, more: tuple[str, ...]) -> None:
    folder = install(tmp_path)
    smacs = told_by_smac(Path(SMAC_PYTHON), folder, map_name, 5, 2, *more)
    assert not differences(smacs, told_by_us(map_name, 5, 2, *more))
    assert smacs["stats"][2] == 0  # SMAC has not had to start the game again


def test_training_goes_on_while_smacs_games_break_off(tmp_path: Path) -> None:
    counts = {"crash": 1, "hang": 1, "garbage": 1}
    environment = real_smac(tmp_path, Path(SMAC_PYTHON))
    run(tmp_path, environment, problems_on_3m, 0.01, 10.0, counts)
