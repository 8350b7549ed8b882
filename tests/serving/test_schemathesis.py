"""schemathesis over the service's own OpenAPI, with all its checks, in an environment of its own.

The long form has more examples: `st --config-file tests/serving/schemathesis.toml run
http://127.0.0.1:8000/openapi.json --checks all --max-examples 1000`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from tests.serving.running import RunningServer
from tests.venvs import ROOT, cached_venv


@pytest.fixture(scope="module")
def st() -> str:
    """The command; installed once."""
    try:
        python = cached_venv("schemathesis", "schemathesis>=4,<5")
    except AssertionError as error:
        pytest.skip(f"schemathesis cannot be installed: {str(error).splitlines()[-1]}")
    return str(python.with_name("st"))


def test_the_service_does_as_its_openapi_says(
    server: RunningServer, http: httpx.Client, st: str, tmp_path: Path
) -> None:
    config = ROOT / "tests" / "serving" / "schemathesis.toml"
    options = ["--checks", "all", "--max-examples", "10", "--seed", "1", "--no-color"]
    ended = subprocess.run(
        [st, "--config-file", str(config), "run", f"{server.rest}/openapi.json", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=tmp_path,  # where it leaves what it remembers
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    paths = http.get("/openapi.json").json()["paths"]
    assert f"Tested: {sum(map(len, paths.values()))}\n" in ended.stdout
