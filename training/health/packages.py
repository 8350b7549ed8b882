"""Python and its packages, against the versions that pyproject.toml wants."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from training.health import Finding

Version = tuple[int, ...]
OLDEST_PYTHON = (3, 11)
NVIDIA = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")


@dataclass(frozen=True)
class Package:
    """What `unmix[train]` needs."""

    name: str
    at_least: Version
    module: str
    below: Version | None = None


NEEDED = (
    Package("numpy", (1, 26), "numpy"),
    Package("grpcio", (1, 76), "grpc", below=(2,)),
    Package("protobuf", (6, 31, 1), "google.protobuf.message", below=(8,)),
    Package("torch", (2, 6), "torch"),
    Package("onnx", (1, 21), "onnx"),
    Package("tyro", (1, 0), "tyro"),
    Package("pyyaml", (6, 0), "yaml"),
    Package("rich", (13, 9), "rich"),
    Package("tensorboard", (2, 20), "tensorboard"),
    Package("matplotlib", (3, 9), "matplotlib"),
    Package("pillow", (11,), "PIL"),
)
ONNXRUNTIME = Package("onnxruntime", (1, 20), "onnxruntime")


def check() -> Iterator[Finding]:
    yield _python()
    for package in NEEDED:
        yield _package(package, _version(package.name))
    yield from _onnxruntime()


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("Python", "ok", f"{version} ({sys.executable})")
    return Finding("Python", "wrong", version, "use Python 3.11 or newer")


def _package(package: Package, version: str | None) -> Finding:
    """Whether it is there, of a version that fits, and can be imported."""
    if version is None:
        return Finding(package.name, "wrong", "not installed", "pip install 'unmix[train]'")
    wanted = f"{package.name}>={_spell(package.at_least)}"
    wanted += f",<{_spell(package.below)}" if package.below else ""
    numbers = _numbers(version)
    if numbers < package.at_least or (package.below and numbers >= package.below):
        return Finding(package.name, "wrong", version, f"pip install '{wanted}'")
    try:
        importlib.import_module(package.module)
    except Exception as error:  # whatever a broken package raises
        again = f"pip install --force-reinstall '{wanted}'"
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(package.name, "wrong", f"{version} cannot be imported: {told}", again)
    return Finding(package.name, "ok", version)


def _onnxruntime() -> Iterator[Finding]:
    """It comes in two packages that overwrite each other's files."""
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu and gpu:
        fix = (
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one: onnxruntime, or "
            "'unmix[serve-gpu]' for an NVIDIA GPU"
        )
        found = f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed"
        yield Finding("onnxruntime", "wrong", found, fix)
        return
    finding = _package(ONNXRUNTIME, gpu or cpu)
    yield finding
    if finding.status == "ok":
        yield _provider(is_for_gpu=gpu is not None)


def _provider(is_for_gpu: bool) -> Finding:
    what = "onnxruntime's provider"
    providers = importlib.import_module("onnxruntime").get_available_providers()
    if "CPUExecutionProvider" not in providers:
        fix = "pip install --force-reinstall onnxruntime"
        return Finding(what, "wrong", "CPUExecutionProvider is missing", fix)
    if "CUDAExecutionProvider" in providers or not _has_gpu():
        return Finding(what, "ok", ", ".join(providers))
    fix = "pip uninstall -y onnxruntime; pip install 'unmix[serve-gpu]'"
    fix = "pip install --force-reinstall onnxruntime-gpu" if is_for_gpu else fix
    return Finding(what, "optional", "an NVIDIA GPU is here, and onnxruntime cannot use it", fix)


def _has_gpu() -> bool:
    return any(Path(path).exists() for path in NVIDIA) and not _hidden_gpus()


def _hidden_gpus() -> bool:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> Version:
    """2.6.0+cu124 -> 2, 6, 0."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _spell(version: Version) -> str:
    return ".".join(str(part) for part in version)
