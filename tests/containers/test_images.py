"""The Dockerfile: by its linter, by its words, and carried out.

There is no Docker engine here. Its steps are run in rooms (tests/containers/rooms.py) with packages
that are installed already; `python -m tests.containers.images` installs them, on a bare Debian.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.containers.dockerfile import Stage, context, ignored, parse
from tests.containers.images import Builder, Image
from tests.containers.rooms import unavailable
from tests.containers.running import Container
from tests.venvs import ROOT

STEPS = """
import numpy as np
from serving.client import Unit
for url in ("http://127.0.0.1:8000/3m", "grpc://127.0.0.1:50051/3m"):
    with Unit(url, agent_id=0) as unit:
        unit.begin_episode()
        print(unit.act(np.zeros(30), np.arange(9) == 4))
"""


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return {stage.name: stage for stage in parse((ROOT / "Dockerfile").read_text())[1]}


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if unavailable():
        pytest.skip(f"no rooms: {unavailable()}")
    packages = Path(sysconfig.get_paths()["purelib"])
    return Builder(tmp_path_factory.mktemp("images"), packages=packages)


@pytest.fixture(scope="module")
def image(builder: Builder) -> Image:
    return builder.build(builder.default)


def test_hadolint_has_no_objection() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    linted = subprocess.run(
        [linter, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_default_image_is_the_service(stages: dict[str, Stage]) -> None:
    assert list(stages)[-1] == "serving"
    assert {"training", "gpu", "load"} < set(stages)


@pytest.mark.parametrize("target", ["serving", "gpu", "training", "load"])
def test_an_image_runs_as_nobody_and_stops_when_told(stages: dict[str, Stage], target: str) -> None:
    line = [stages[target]]
    while line[-1].base in stages:
        line.append(stages[line[-1].base])
    last = {step.name: step for stage in reversed(line) for step in stage.instructions}
    assert last["USER"].text == "10001:10001"
    assert last["STOPSIGNAL"].text == "SIGTERM"
    assert last["ENTRYPOINT"].exec_form()
    assert last["HEALTHCHECK"].text == "NONE" or "serving.probe" in last["HEALTHCHECK"].text
    assert "org.opencontainers.image.licenses" in last["LABEL"].text


def test_no_base_is_the_latest(stages: dict[str, Stage]) -> None:
    args, _ = parse((ROOT / "Dockerfile").read_text())
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", args["PYTHON_IMAGE"])
    outer = {stage.base for stage in stages.values() if stage.base not in stages}
    assert outer == {"${PYTHON_IMAGE}"}


def test_nothing_for_training_goes_into_the_services_image(stages: dict[str, Stage]) -> None:
    for target in ("build-serving", "build-gpu"):
        steps = " ".join(step.text for step in stages[target].instructions)
        assert "train" not in steps
        assert "torch" not in steps


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/python", "runs/a/checkpoint.pt", "deploy/secrets/memory_keys",
     "serving/__pycache__/server.pyc", "experiments/results/a/metrics.jsonl", "tests/venvs.py"],
)  # fmt: skip
def test_what_is_nobodys_business_stays_out_of_the_build(path: str) -> None:
    assert ignored(path, (ROOT / ".dockerignore").read_text())


def test_the_build_sees_code_and_models() -> None:
    seen = context(ROOT)
    wanted = {
        "pyproject.toml",
        "locustfile.py",
        "serving/server.py",
        "serving/pb/unmix/v1/agent_service_pb2.py",
        "training/train.py",
        "models/3s5z/1/model.onnx",
        "experiments/paper.yaml",
    }
    assert wanted < set(seen)


def test_ignore_patterns_are_read_as_docker_reads_them() -> None:
    patterns = "*\n!kept\n!folder/*.yaml\n# a comment\n**/junk\n"
    kept = ["kept", "kept/a/b", "folder/a.yaml"]
    out = ["other", "folder/a.txt", "folder/deep/a.yaml", "kept/junk", "kept/a/junk/b", "a/kept"]
    assert [path for path in kept + out if not ignored(path, patterns)] == kept


def test_what_the_reader_of_dockerfiles_does_not_know_is_an_error() -> None:
    args, [stage] = parse("ARG A=1\nFROM x AS y\nRUN --mount=type=cache,target=/c a \\\n  && b\n")
    assert args == {"A": "1"}
    assert (stage.name, stage.base) == ("y", "x")
    assert stage.instructions[0].rest == "a  && b"
    assert stage.instructions[0].flags == {"mount": "type=cache,target=/c"}
    for text in ("FROM x\n", "FROM x AS y\nADD a b\n"):
        with pytest.raises(ValueError, match=r"name|known"):
            parse(text)


def test_the_services_image_serves(image: Image) -> None:
    """On a read-only root, as nobody, as process 1, with nothing that it may do to the machine."""
    with Container(image, {"UNMIX_INSECURE": "1"}) as container:
        status = container.status()
        assert status["Uid"].split() == ["10001"] * 4
        assert status["NSpid"].split()[-1] == "1"
        for held in ("CapPrm", "CapEff", "CapInh", "CapBnd"):
            assert int(status[held], 16) == 0
        assert status["NoNewPrivs"] == "1"
        healthy = container.inside(image.health)
        assert (healthy.returncode, healthy.stderr) == (0, "")
        stepped = container.beside([sys.executable, "-c", STEPS])
        assert stepped.stdout.split() == ["4", "4"], stepped.stderr
        for place, may in (("/models/x", False), ("/opt/unmix/x", False), ("/tmp/x", True)):
            written = container.inside(["python", "-c", f"open({place!r}, 'w')"])
            assert (written.returncode == 0) == may, written.stderr
        assert container.stop() == 0
    assert '"stopped"' in container.log[-1]


def test_the_services_image_does_not_open_itself_to_everybody(image: Image) -> None:
    refusal = r"0\.0\.0\.0 is reached from other machines, and TLS"
    with pytest.raises(AssertionError, match=refusal), Container(image, {}):
        pass


def test_the_services_image_holds_the_services_code_alone(image: Image) -> None:
    held = {path.name for path in image.room.root.glob("opt/unmix/lib/python3*/site-packages/*")}
    assert "serving" in held
    assert not held & {"training", "benchmarks", "tests", "torch"}
    assert image.labels["org.opencontainers.image.version"] == "0.1.0"
