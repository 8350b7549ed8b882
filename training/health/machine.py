"""The machine: compiler, ports, memory, disk."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from training.health import Finding

PORTS = {"HTTP port": 8000, "gRPC port": 50051}
LEAST_MEMORY = 2e9
"""The replay may take 1 GB; torch, twice, the rest."""
LEAST_DISK = 1e9
MEMINFO = Path("/proc/meminfo")


def check() -> Iterator[Finding]:
    yield _compiler()
    for what, port in PORTS.items():
        yield _port(what, port)
    yield from _memory()
    yield _disk()


def _compiler() -> Finding:
    """What torch compiles the simulator's loop with."""
    asked = os.environ.get("CXX")
    for name in [asked] if asked else ["g++", "clang++"]:
        if path := shutil.which(name):
            return Finding("C++ compiler", "ok", path)
    missing = f"CXX={asked} is no program" if asked else "neither g++ nor clang++"
    fix = (
        "for --compile-env and --compile: apt install g++" if not asked else "correct or unset CXX"
    )
    return Finding("C++ compiler", "optional", missing, fix)


def _port(what: str, port: int) -> Finding:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError as error:
            fix = "if that is no service of yours, serve at another port"
            return Finding(what, "optional", f"{port} is taken ({error.strerror})", fix)
    return Finding(what, "ok", f"{port} is free")


def _memory() -> Iterator[Finding]:
    """Nothing where the system does not say."""
    try:
        meminfo = MEMINFO.read_text()
    except OSError:
        return
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable"):
            free = int(line.split()[1]) * 1024
            fix = "train with a smaller --buffer-bytes, or free some" if free < LEAST_MEMORY else ""
            yield Finding("memory", "wrong" if fix else "ok", f"{free / 1e9:.1f} GB free", fix)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    fix = "free some, or run elsewhere: a run keeps three checkpoints" if free < LEAST_DISK else ""
    found = f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    return Finding("disk", "wrong" if fix else "ok", found, fix)
