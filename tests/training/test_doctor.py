"""The doctor on set-ups that are whole, and on ones that are broken in one place each.

It runs in a Python without site-packages, whose packages are made-up folders.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.envs.games import CHECKOUT, lay_out
from training.envs.smac.installation import MAPS
from training.health.packages import NEEDED, ONNXRUNTIME, Package

VERSIONS = {
    **{package.name: ".".join(map(str, package.at_least)) for package in NEEDED},
    "onnxruntime": "1.20.0",
}
MODULES = {package.name: package.module for package in (*NEEDED, ONNXRUNTIME)}
PROVIDERS = "def get_available_providers(): return {!r}\n"


class Setup:
    """A Python's packages, a game and an environment, all made up."""

    def __init__(self, folder: Path) -> None:
        self.site, self.game = folder / "site", folder / "game"
        for name, version in VERSIONS.items():
            self.install(name, version)
        self.write("onnxruntime", PROVIDERS.format(["CPUExecutionProvider"]))
        self.write("smac", "")
        self.write("smac.env", "class StarCraft2Env: pass\n")
        lay_out(self.game, *MAPS)
        compiler = folder / "bin" / "g++"
        compiler.parent.mkdir()
        compiler.write_text("#!/bin/sh\n")
        compiler.chmod(0o755)
        self.environment = {
            "PATH": str(compiler.parent),
            "PYTHONPATH": f"{self.site}:{CHECKOUT}",
            "SC2PATH": str(self.game),
        }

    def install(self, name: str, version: str) -> None:
        """The version's files, and an empty module."""
        for old in self.site.glob(f"{name}-[0-9]*.dist-info"):
            (old / "METADATA").unlink()
            old.rmdir()
        described = self.site / f"{name}-{version}.dist-info"
        described.mkdir(parents=True)
        (described / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        if name in MODULES:
            self.write(MODULES[name], "")

    def write(self, module: str, text: str) -> Path:
        """A package's __init__.py, and those of the packages around it if they are missing."""
        folder = self.site
        for part in module.split("."):
            folder = folder / part
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()
        (folder / "__init__.py").write_text(text)
        return folder

    def uninstall(self, name: str) -> None:
        for file in (*self.site.glob(f"{name}-*.dist-info/*"), *self.site.glob(f"{name}/*.py")):
            file.unlink()

    def examine(self) -> tuple[int, dict[str, dict[str, str]]]:
        """The exit code, and the findings by what they are about."""
        # Without site-packages (-S), and without what this test's own Python has in it.
        command = [sys.executable, "-S", "-m", "training.doctor", "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.stdout, done.stderr
        told = json.loads(done.stdout)
        assert told["healthy"] == (done.returncode == 0)
        return done.returncode, {finding["what"]: finding for finding in told["findings"]}


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_a_whole_setup_has_nothing_wrong(setup: Setup) -> None:
    code, findings = setup.examine()
    assert code == 0, [f for f in findings.values() if f["status"] == "wrong"]
    taken = {"HTTP port", "gRPC port"}  # others' services may be running here
    assert {f["status"] for what, f in findings.items() if what not in taken} == {"ok"}
    assert findings["StarCraft II"]["found"].startswith("build 75689")
    assert {"Python", "torch", "protobuf", "grpcio", "memory", "disk"} <= findings.keys()


def smac3(setup: Setup) -> None:
    for file in (setup.site / "smac" / "env").iterdir():
        if file.is_file():
            file.unlink()
    (setup.site / "smac" / "env").rename(setup.site / "smac" / "facade")


def blizzards(setup: Setup) -> None:
    setup.write("smac.env", "import s2clientprotocol")
    refusal = "Descriptors cannot be created directly.\\nIf this call came from a _pb2.py file, ..."
    setup.write("s2clientprotocol", f'raise TypeError("{refusal}")')


def spoil_program(setup: Setup, name: str) -> None:
    program = setup.game / "Versions" / "Base75689" / "SC2_x64"
    if name == "mode":
        program.chmod(0o644)
    else:
        program.unlink()


def spoil_maps(setup: Setup) -> None:
    for name in ("MMM", "3m"):
        (setup.game / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").unlink()


BROKEN: dict[str, tuple[Callable[[Setup], object], str, str, str]] = {
    "no torch": (
        lambda s: s.uninstall("torch"),
        "torch",
        "not installed",
        "pip install 'unmix[train]'",
    ),
    "old torch": (
        lambda s: s.install("torch", "2.5.1+cpu"),
        "torch",
        "2.5.1+cpu",
        "pip install 'torch>=2.6'",
    ),
    "torn torch": (
        lambda s: s.write("torch", "raise OSError('libtorch.so: cannot open shared object file')"),
        "torch",
        "cannot be imported: OSError: libtorch.so",
        "pip install --force-reinstall 'torch>=2.6'",
    ),
    "both onnxruntimes": (
        lambda s: s.install("onnxruntime_gpu", "1.20.0"),
        "onnxruntime",
        "are both installed",
        "pip uninstall -y onnxruntime onnxruntime-gpu",
    ),
    "no provider": (
        lambda s: s.write("onnxruntime", PROVIDERS.format(["AzureExecutionProvider"])),
        "onnxruntime's provider",
        "CPUExecutionProvider is missing",
        "pip install --force-reinstall onnxruntime",
    ),
    "old onnx": (lambda s: s.install("onnx", "1.9.0"), "onnx", "1.9.0", "'onnx>=1.21'"),
    "old protobuf": (
        lambda s: s.install("protobuf", "3.20.3"),
        "protobuf",
        "3.20.3",
        "pip install 'protobuf>=6.31.1,<8'",
    ),
    "new protobuf": (lambda s: s.install("protobuf", "8.0.0"), "protobuf", "8.0.0", "<8"),
    "no grpcio": (lambda s: s.uninstall("grpcio"), "grpcio", "not installed", "pip install"),
    "no game": (
        lambda s: s.environment.update(SC2PATH="/no/such/folder"),
        "StarCraft II",
        "no StarCraft II in /no/such/folder",
        "set SC2PATH to the game's folder",
    ),
    "no versions": (
        lambda s: (s.game / "Versions" / "Base75689").rename(s.game / "Base75689"),
        "StarCraft II",
        "no version of the game",
        "SC2PATH names no game",
    ),
    "no program": (
        lambda s: spoil_program(s, "file"),
        "StarCraft II",
        "SC2_x64 is missing",
        "unpack the game anew",
    ),
    "not executable": (
        lambda s: spoil_program(s, "mode"),
        "StarCraft II",
        "is not executable",
        "chmod +x",
    ),
    "maps missing": (
        spoil_maps,
        "SMAC's maps",
        "3m, MMM missing in ",
        "copy SMAC's maps",
    ),
    "no smac": (
        lambda s: [(s.site / "smac").rename(s.site / "elsewhere")],
        "SMAC",
        "has no SMAC",
        "name a Python that has it in UNMIX_SMAC_PYTHON",
    ),
    "SMAC3": (smac3, "SMAC", "is PyPI's SMAC3", "-m pip uninstall smac"),
    "Blizzard's protocol": (
        blizzards,
        "SMAC",
        "Blizzard's s2clientprotocol does not fit the protobuf",
        "-m pip install --force-reinstall pys2clientprotocol",
    ),
    "smac without pysc2": (
        lambda s: s.write("smac.env", "from pysc2 import maps"),
        "SMAC",
        "lacks pysc2",
        "install it there",
    ),
    "no such Python": (
        lambda s: s.environment.update(UNMIX_SMAC_PYTHON="/no/python"),
        "SMAC",
        "UNMIX_SMAC_PYTHON=/no/python is no program",
        "name a Python that has SMAC",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found_with_its_fix(setup: Setup, name: str) -> None:
    spoil, what, found, fix = BROKEN[name]
    spoil(setup)
    code, findings = setup.examine()
    assert code == 1
    assert [w for w, finding in findings.items() if finding["status"] == "wrong"] == [what]
    assert found in findings[what]["found"]
    assert fix in findings[what]["fix"]


def test_the_game_is_optional_as_long_as_nobody_has_named_it(setup: Setup) -> None:
    del setup.environment["SC2PATH"]
    setup.environment["HOME"] = str(setup.site)
    (setup.site / "smac").rename(setup.site / "elsewhere")
    code, findings = setup.examine()
    assert code == 0
    assert findings["StarCraft II"]["status"] == findings["SMAC"]["status"] == "optional"


def test_a_compiler_is_optional(setup: Setup) -> None:
    setup.environment["PATH"] = "/no/such/folder"
    code, findings = setup.examine()
    assert (code, findings["C++ compiler"]["status"]) == (0, "optional")
    assert findings["C++ compiler"]["fix"].endswith("apt install g++")


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.health import machine

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(machine, "PORTS", {"HTTP port": port})
        (finding,) = (f for f in machine.check() if f.what == "HTTP port")
    assert finding.status == "optional"
    assert finding.found.startswith(f"{port} is taken")
    monkeypatch.setattr(machine, "PORTS", {"HTTP port": port})
    (finding,) = (f for f in machine.check() if f.what == "HTTP port")
    assert (finding.status, finding.found) == ("ok", f"{port} is free")


def test_too_little_memory_or_disk_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from training.health import machine

    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4000000 kB\nMemAvailable: 1900000 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    monkeypatch.setattr(machine, "LEAST_DISK", 1e30)
    status = {finding.what: finding.status for finding in machine.check()}
    assert (status["memory"], status["disk"]) == ("wrong", "wrong")
    meminfo.write_text("MemAvailable: 2000000 kB\n")
    monkeypatch.setattr(machine, "LEAST_DISK", 0)
    status = {finding.what: finding.status for finding in machine.check()}
    assert (status["memory"], status["disk"]) == ("ok", "ok")


def test_a_line_a_finding(setup: Setup) -> None:
    setup.uninstall("torch")
    command = [sys.executable, "-S", "-m", "training.doctor"]
    done = subprocess.run(command, env=setup.environment, capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert re.search(r"^ok +Python +3\.", lines[0])
    (wrong,) = (line for line in lines if line.startswith("WRONG"))
    assert re.fullmatch(r"WRONG +torch +not installed -> pip install 'unmix\[train\]'", wrong)


def test_the_versions_wanted_are_those_of_pyproject() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["train"]
    assert {_declaration(package) for package in (*NEEDED, ONNXRUNTIME)} == set(declared)


def _declaration(package: Package) -> str:
    low = ".".join(map(str, package.at_least))
    below = ",<" + ".".join(map(str, package.below)) if package.below else ""
    return f"{package.name}>={low}{below}"


def test_here_it_runs_as_well() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("SC2PATH", "UNMIX_SMAC_PYTHON")}
    command = [sys.executable, "-m", "training.doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    findings = {f["what"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings["torch"]["status"] == findings["onnxruntime"]["status"] == "ok"
