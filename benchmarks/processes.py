"""What a server uses, with everything that it has started."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """Of processor time, up to now."""
    ticks = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(each)[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> tuple[float, int]:
    """(resident MB, processes). What processes share is counted for each of them."""
    pages, members = 0, family(pid)
    for each in members:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(members)


def family(pid: int) -> list[int]:
    """The process, its children, and theirs."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            each = int(folder.name)
            children.setdefault(int(_stat(each)[1]), []).append(each)
    found = [pid]
    for each in found:  # grows as it goes
        found += children.get(each, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
