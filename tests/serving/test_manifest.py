"""The manifest is read strictly: what it does not say, or says twice, stops the load."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from serving.errors import ModelInvalid
from serving.models.manifest import parse_manifest
from tests.artifacts import Policy, golden, manifest

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    policy = Policy()
    file = {"sha256": "0" * 64, "size": 1}
    return manifest(policy, "tiny", 1) | {
        "files": {"model.onnx": file},
        "golden": golden(policy),
    }


def test_a_valid_manifest_is_read(valid: dict[str, Any]) -> None:
    parsed = parse_manifest(json.dumps(valid).encode())
    assert (parsed.label, parsed.dims.obs_dim) == ("tiny version 1", 7)
    assert parsed.summary() == {k: v for k, v in valid.items() if k not in ("files", "golden")}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m.pop("map"), "map"),
        (lambda m: m.update(format_version=2), "format_version"),
        (lambda m: m.update(version="1"), "version"),
        (lambda m: m.update(version=0), "version"),
        (lambda m: m.update(name="../tiny"), "name"),
        (lambda m: m["dims"].update(obs_dim=0), "dims.obs_dim"),
        (lambda m: m["dims"].update(obs_dim=8), "golden row 0"),
        (lambda m: m["agents"].pop(), "agents must be numbered 0 to 2"),
        (lambda m: m["agents"][1].update(id=5), "agents must be numbered 0 to 2"),
        (lambda m: m["environment"].update(layout_sha256="AB" * 32), "environment.layout_sha256"),
        (lambda m: m["training"].update(win_rate=1.5), "training.win_rate"),
        (lambda m: m["training"].update(win_rate=float("nan")), "training.win_rate"),
        (lambda m: m["golden"].update(rows=[]), "golden.rows"),
        (lambda m: m["golden"].update(tolerance=1.0), "golden.tolerance"),
        (lambda m: m["golden"]["rows"][3].update(last_action=5), "golden row 3"),
        (lambda m: m["golden"]["rows"][3].update(agent_id=3), "golden row 3"),
        (lambda m: m["golden"]["rows"][3]["q_values"].pop(), "golden row 3"),
        (lambda m: m.update(files={}), "model.onnx"),
        (lambda m: m["files"].update({"../x": {"sha256": "0" * 64, "size": 1}}), "plain file"),
        (lambda m: m["files"].update({"manifest.json": m["files"]["model.onnx"]}), "plain file"),
    ],
)
def test_a_manifest_at_fault_is_refused_and_the_key_named(
    valid: dict[str, Any], change: Change, named: str
) -> None:
    broken = copy.deepcopy(valid)
    change(broken)
    with pytest.raises(ModelInvalid, match=named):
        parse_manifest(json.dumps(broken).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(ModelInvalid):
        parse_manifest(data)
