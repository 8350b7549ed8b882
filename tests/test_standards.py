"""NVIDIA's client, as it is, plays whole battles; Triton's schema takes our configuration."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.peers import PeerUnavailableError, peer_python
from benchmarks.standards import Door, Memory, Way, play
from tests.serving.running import RunningServer

MODELS = Path(__file__).parents[1] / "models"
SEED = 4

READ_CONFIGS = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
texts = json.load(sys.stdin)
read = [text_format.Parse(text, ModelConfig()) for text in texts]
print(json.dumps([json_format.MessageToDict(it, preserving_proto_field_name=True) for it in read]))
"""


@pytest.fixture(scope="module")
def triton_python() -> Path:
    try:
        return peer_python("tritonclient", print)
    except PeerUnavailableError as error:
        pytest.skip(f"needs tritonclient from PyPI: {error}")


@pytest.fixture(scope="module")
def server(triton_python: Path) -> Iterator[RunningServer]:
    with RunningServer(MODELS) as running:
        yield running


@pytest.mark.parametrize(
    ("map_name", "ways"),
    [
        (
            "3m",
            [("http", "sequence"), ("http", "carried"), ("grpc", "sequence"), ("grpc", "carried")],
        ),
        # Longer; all four ways are in `python -m benchmarks.standards`.
        ("3s5z", [("http", "carried"), ("grpc", "sequence")]),
    ],
)
def test_tritonclient_plays_the_battle_that_the_model_plays(
    server: RunningServer, map_name: str, ways: list[tuple[Door, Memory]]
) -> None:
    addresses = {"grpc": server.grpc, "http": server.rest.removeprefix("http://")}
    asked = [Way(door, memory, addresses[door]) for door, memory in ways]
    played = play(map_name, asked, episodes=1, seed=SEED)
    assert [battle.battle_won for battle in played.battles] == [True]
    for way in played.ways:
        assert way.n_actions > 50
        assert way.n_other == 0, way


def test_triton_s_schema_takes_every_config(triton_python: Path) -> None:
    paths = sorted(MODELS.glob("*/config.pbtxt"))
    names = [path.parent.name for path in paths]
    assert names == sorted(folder.name for folder in MODELS.iterdir() if folder.is_dir())
    ended = subprocess.run(
        [triton_python, "-c", READ_CONFIGS],
        input=json.dumps([path.read_text() for path in paths]),
        capture_output=True,
        text=True,
        check=True,
    )
    for name, config in zip(names, json.loads(ended.stdout), strict=True):
        dims = json.loads((MODELS / name / "1" / "manifest.json").read_text())["dims"]
        one_number = {"dims": ["1"], "reshape": {}}
        assert (config["name"], config["platform"]) == (name, "onnxruntime_onnx")
        assert config["input"] == [
            {"name": "obs", "data_type": "TYPE_FP32", "dims": [str(dims["obs_dim"])]},
            {"name": "avail_actions", "data_type": "TYPE_BOOL", "dims": [str(dims["n_actions"])]},
            {"name": "last_action", "data_type": "TYPE_INT64", **one_number},
            {"name": "agent_id", "data_type": "TYPE_INT64", **one_number},
        ]
        assert config["output"] == [
            {"name": "action", "data_type": "TYPE_INT64", **one_number},
            {"name": "q_values", "data_type": "TYPE_FP32", "dims": [str(dims["n_actions"])]},
        ]
        (state,) = config["sequence_batching"]["state"]
        assert (state["input_name"], state["output_name"]) == ("hidden", "next_hidden")
        assert state["dims"] == [str(dims["hidden_dim"])]
