"""The reports in the repository are those of the runs in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.report.__main__ import Command, build

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
REPORTS = sorted(path.name for path in (EXPERIMENTS / "reports").iterdir())


@pytest.mark.parametrize("name", REPORTS)
def test_the_committed_tables_come_out_again_to_the_byte(name: str) -> None:
    files = build(
        Command(
            (EXPERIMENTS / "results",),
            out=Path("unused"),
            experiment=EXPERIMENTS / f"{name}.yaml",
            reference=(EXPERIMENTS / "reference-icml2018.yaml",),
        )
    )
    tables = {file: content for file, content in files.items() if file.endswith(".csv")}
    assert len(tables) >= 4
    for file, content in tables.items():
        assert (EXPERIMENTS / "reports" / name / file).read_bytes() == content, file
