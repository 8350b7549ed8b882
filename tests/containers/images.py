"""The Dockerfile's steps, carried out one by one in rooms, and what comes of them.

    python -m tests.containers.images [TARGET ...]

carries out every step of these targets (by default, all) on a bare Debian, packages from the index
included, tries each image, and says what it holds. It takes minutes, root, and `debootstrap`.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.containers.dockerfile import Instruction, Stage, context, expand, pairs, parse
from tests.containers.rooms import (
    Room,
    bare_debian,
    copy,
    furnish,
    pip_cache,
    pip_environ,
    unavailable,
)
from tests.venvs import ROOT

SMOKE = {
    "serving": "UNMIX_INSECURE=1 unmix-serve check",
    # There may be no GPU here: that its onnxruntime loads and runs models at all.
    "gpu": "UNMIX_INSECURE=1 UNMIX_DEVICE=cpu unmix-serve check",
    "training": "python -m training.evaluate --map 3m --policy models/3m/1 --episodes 8",
    "load": "locust --locustfile /unmix/locustfile.py --list",
}
"""What each image's user does on its read-only root before the image counts as good."""
PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"


@dataclass
class Image:
    """A room, and how its process is to be started."""

    room: Room
    environ: dict[str, str]
    folder: str = "/"
    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop_signal: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)

    def run(self, words: Sequence[str]) -> str:
        """The output of a command inside, as the image's user on a read-only root."""
        command = self.room.command(
            words, environ=self.environ, folder=self.folder, user=self.user, read_only=True,
            network=False,
        )  # fmt: skip
        return _run(command)


class Builder:
    """Carries out the repository's Dockerfile; a stage once.

    Args:
        folder: where the stages' roots go.
        base: see `furnish`.
        packages: a folder of installed packages to use instead of installing any: seconds, not
            minutes. What the image then holds of others' code says nothing.
        args: the build's arguments.
    """

    def __init__(
        self,
        folder: Path,
        base: Path | None = None,
        packages: Path | None = None,
        args: Mapping[str, str] | None = None,
    ) -> None:
        self._folder, self._base, self._packages = folder, base, packages
        self._args = dict(args or {})
        self._globals, stages = parse((ROOT / "Dockerfile").read_text())
        self._stages = {stage.name: stage for stage in stages}
        self.default = stages[-1].name
        self._files = context(ROOT)
        self._built: dict[str, Image] = {}

    def build(self, target: str) -> Image:
        """Raises: AssertionError: a step failed."""
        if target not in self._built:
            stage = self._stages[target]
            image = self._begin(stage)
            for instruction in stage.instructions:
                self._carry_out(image, instruction)
            self._built[target] = image
        return self._built[target]

    def _begin(self, stage: Stage) -> Image:
        root = Path(tempfile.mkdtemp(prefix=f"{stage.name}-", dir=self._folder))
        root.chmod(0o755)
        if stage.base in self._stages:
            base = self.build(stage.base)
            made = replace(base, room=copy(base.room, root))
            for name in ("environ", "labels", "args"):
                setattr(made, name, dict(getattr(base, name)))
            return made
        assert expand(stage.base, self._globals).startswith("python:3.11-")
        return Image(furnish(root, self._base), {"PATH": PATH})

    def _carry_out(self, image: Image, step: Instruction) -> None:
        known = image.args | image.environ
        if step.name == "ARG":
            given = {name: self._args.get(name, it) for name, it in pairs(step.text).items()}
            image.args |= given
        elif step.name == "ENV":
            image.environ |= {name: expand(it, known) for name, it in pairs(step.text).items()}
        elif step.name == "LABEL":
            image.labels |= {name: expand(it, known) for name, it in pairs(step.text).items()}
        elif step.name == "WORKDIR":
            image.folder = step.text
            _inside(image, step.text).mkdir(parents=True, exist_ok=True)
        elif step.name == "USER":
            image.user = step.text
        elif step.name == "STOPSIGNAL":
            image.stop_signal = step.text
        elif step.name == "ENTRYPOINT":
            image.entrypoint, image.command = step.exec_form(), []
        elif step.name == "CMD":
            image.command = step.exec_form()
        elif step.name == "HEALTHCHECK":
            _, _, command = step.rest.partition("CMD ")
            image.health = Instruction("CMD", command).exec_form() if command else []
        elif step.name == "COPY":
            self._copy(image, step)
        elif step.name == "RUN":
            self._run_step(image, step)

    def _run_step(self, image: Image, step: Instruction) -> None:
        if self._packages is not None and "pip install '.[" in step.rest:
            _borrow(image, self._packages)
            return
        mounts = []
        for option in step.flags.values():
            told = dict(part.split("=") for part in option.split(","))
            assert told["type"] == "cache", "RUN knows no other mount"
            mounts.append((pip_cache(), told["target"], "rw"))
        environ = {"HOME": "/root"} | pip_environ() | image.args | image.environ
        command = image.room.command(
            ["/bin/sh", "-c", step.rest], environ=environ, folder=image.folder, mounts=mounts
        )
        _run(command)

    def _copy(self, image: Image, step: Instruction) -> None:
        *sources, target = shlex.split(step.rest)
        place = _inside(image, target)
        if "from" in step.flags:
            origin = self.build(step.flags["from"]).room
            root = origin.root
            image.room.mounts += [it for it in origin.mounts if it not in image.room.mounts]
            place.parent.mkdir(parents=True, exist_ok=True)
            _run(["cp", "-a", str(root / sources[0].lstrip("/")), str(place)])
            return
        for source in sources:
            found = [name for name in self._files if _under(name, source)]
            assert found, f"COPY {source}: nothing there that .dockerignore lets in"
            for name in found:
                # A file goes into the folder, a folder's content takes its place.
                inner = Path(name).name
                if (ROOT / source).is_dir():
                    inner = Path(name).relative_to(source).as_posix()
                goal = place / inner
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, goal)


def _borrow(image: Image, packages: Path) -> None:
    """Let the image's environment find packages that are installed elsewhere."""
    room = image.room
    room.mounts.append((str(packages), "/packages", "ro"))
    [site] = room.root.glob("opt/unmix/lib/python3*/site-packages")
    (site / "packages.pth").write_text("/packages\n")


def _inside(image: Image, path: str) -> Path:
    return image.room.root / image.folder.lstrip("/") / path if path[0] != "/" else (
        image.room.root / path.lstrip("/")
    )  # fmt: skip


def _under(name: str, source: str) -> bool:
    if "*" in source:
        return Path(name).match(source) and name.count("/") == source.count("/")
    return name == source or name.startswith(f"{source}/")


def _run(command: Sequence[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command[-1]}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def _describe(image: Image) -> str:
    """What an image holds, in a line."""
    held = image.run(
        ["python", "-m", "pip", "--python", "/opt/unmix/bin/python", "list", "--format=json"]
    )
    names = {package["name"] for package in json.loads(held)}
    size = _run(["du", "-sm", str(image.room.root / "opt/unmix")]).split()[0]
    torch = "with torch" if "torch" in names else "no torch"
    site = next(image.room.root.glob("opt/unmix/lib/python3*/site-packages"))
    code = [name for name in ("serving", "training", "benchmarks") if (site / name).exists()]
    return f"{len(names)} packages, {size} MB, {torch}, our {' and '.join(code)}"


def main(targets: Sequence[str]) -> None:
    reason = unavailable()
    if not reason and shutil.which("debootstrap") is None:
        reason = "debootstrap is not installed (Debian package debootstrap)"
    if reason:
        sys.exit(reason)
    base = bare_debian(ROOT / ".cache" / "containers")
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache", prefix="images-") as folder:
        # Where the index of torch's CPU builds is not to be reached: the one pip knows.
        builder = Builder(Path(folder), base, args={"TORCH_INDEX_URL": ""})
        for target in targets or ("serving", "load", "training", "gpu"):
            start = time.monotonic()
            image = builder.build(target)
            image.run(["sh", "-c", SMOKE[target]])
            print(f"{target}: {_describe(image)}, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
