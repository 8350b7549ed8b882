"""Copies what is small and worth keeping of a run, so that it can be put under version control.

config.yaml      every setting
metrics.jsonl    what it wrote down
software.yaml    what its last bits may depend on, where its checkpoint says so
"""

from __future__ import annotations

import warnings
from pathlib import Path

import yaml

from training.experiment.scripted import write_whole
from training.run_folder import RunFolder

SOFTWARE = "software.yaml"


def collect(folder: RunFolder, to: Path) -> None:
    """Copy a finished run's small files. Files that are the same already are left alone."""
    files = {path.name: path.read_bytes() for path in (folder.config, folder.metrics)}
    if software := software_of(folder):
        files[SOFTWARE] = yaml.safe_dump(software, sort_keys=True).encode()
    to.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = to / name
        if not path.is_file() or path.read_bytes() != content:
            write_whole(path, content)


def software_of(folder: RunFolder) -> dict[str, str]:
    """Versions and device of a run: as collected, else from its last checkpoint, else unknown."""
    collected = folder.path / SOFTWARE
    if collected.is_file():
        return dict(yaml.safe_load(collected.read_text(encoding="utf-8")))
    if not any(folder.checkpoints.glob("last-*.pt")):
        return {}
    from training import checkpoint  # imports torch, which a queue that collects nothing never does

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged checkpoint matters to a resume, not here
        try:
            saved = checkpoint.load_last(folder)
        except checkpoint.CheckpointError:
            return {}
    return dict(saved["software"]) if saved is not None else {}
