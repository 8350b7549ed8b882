"""One byte of an artifact changed, anywhere: it is refused, and what serves goes on.

`UNMIX_LONG_TESTS=1` changes five times as many.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from serving.errors import ModelInvalid
from serving.models.repository import Repository, load_model
from tests.artifacts import Policy, write_artifact, write_digest

FILES = ("model.onnx", "manifest.json", "manifest.json.sha256", "MODEL_CARD.md")
N = 250 if os.environ.get("UNMIX_LONG_TESTS") else 50
"""Changes of each file."""


@pytest.mark.parametrize("name", FILES)
def test_no_byte_of_an_artifact_can_be_another(tmp_path: Path, name: str) -> None:
    folder = write_artifact(tmp_path, Policy())
    write_digest(folder)
    repository = Repository(tmp_path)
    serving = repository.load("tiny", 1)
    original = (folder / name).read_bytes()
    random = np.random.default_rng(len(name))
    for _ in range(N):
        data = bytearray(original)
        place = random.integers(len(data))
        data[place] = (data[place] + random.integers(1, 256)) % 256
        (folder / name).write_bytes(data)
        with pytest.raises(ModelInvalid):
            repository.load("tiny", 1)
        assert repository.resolve() is serving
    (folder / name).write_bytes(original)
    assert repository.load("tiny", 1) is serving


def test_golden_rows_are_a_part_that_counts(tmp_path: Path) -> None:
    """A last digit that the self-test could not notice."""
    folder = write_artifact(tmp_path)
    write_digest(folder)
    text = (folder / "manifest.json").read_text()
    place = text.index('"q_values": [', text.index('"golden"')) + len('"q_values": [-0.000')
    changed = text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :]
    (folder / "manifest.json").write_text(changed)
    with pytest.raises(ModelInvalid, match=r"is not the file that manifest\.json\.sha256"):
        load_model(folder)


def test_an_artifact_without_the_digest_is_taken_and_a_wrong_one_never(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    load_model(folder)
    digest = folder / "manifest.json.sha256"
    digest.write_text("")
    with pytest.raises(ModelInvalid, match=r"manifest\.json\.sha256 describes"):
        load_model(folder)
    digest.unlink()
    digest.symlink_to(folder / "nothing")
    with pytest.raises(ModelInvalid, match="cannot be read"):
        load_model(folder)
