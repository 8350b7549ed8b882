"""Network namespaces in which each unit can reach the service, and nothing else.

Every unit has a wire of its own to the service's namespace (a veth pair, a /30 of the addresses
that RFC 5737 keeps for examples), no route beyond it, and the service's namespace forwards nothing:
units cannot reach each other, nor the machine around them. What they see and do travels through
sockets that they are started with, not through a network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_UNITS = 64
"""As many /30 as there are in a /24."""
_PREFIX = "unmix"
_NAMES = Path("/run/netns")


class IsolationError(RuntimeError):
    """Network namespaces cannot be had here; the message says what is missing."""


@dataclass(frozen=True)
class Isolation:
    """The namespaces' names."""

    service: str
    units: tuple[str, ...]

    def service_command(self, command: Sequence[str]) -> list[str]:
        """The command, run beside nothing but the wires."""
        return ["ip", "netns", "exec", self.service, *command]

    def unit_command(self, unit: int, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.units[unit], *command]

    @staticmethod
    def service_host(unit: int) -> str:
        """The service's address at the end of this unit's wire."""
        return f"198.51.100.{4 * unit + 1}"

    @staticmethod
    def unit_host(unit: int) -> str:
        return f"198.51.100.{4 * unit + 2}"


@contextlib.contextmanager
def isolated(n_units: int) -> Iterator[Isolation]:
    """Make the namespaces; take them down, and those of processes that could not, at the end.

    Raises:
        IsolationError
    """
    if not shutil.which("ip"):
        raise IsolationError("the command `ip` is missing: apt-get install iproute2")
    if not 1 <= n_units <= MOST_UNITS:
        raise IsolationError(f"1 to {MOST_UNITS} units can be isolated, not {n_units}")
    _remove_abandoned()
    own = f"{_PREFIX}-{os.getpid()}"
    isolation = Isolation(f"{own}-service", tuple(f"{own}-unit{i}" for i in range(n_units)))
    try:
        _make(isolation)
        yield isolation
    finally:
        for name in (*isolation.units, isolation.service):
            _ip("netns", "delete", name, must=False)


def _make(isolation: Isolation) -> None:
    _ip("netns", "add", isolation.service)
    _ip("netns", "exec", isolation.service, "sysctl", "-qw", "net.ipv4.ip_forward=0")
    for i, unit in enumerate(isolation.units):
        _ip("netns", "add", unit)
        ends = ["type", "veth", "peer", "name", "wire", "netns", unit]
        _ip("-n", isolation.service, "link", "add", f"unit{i}", *ends)
        for name, device, host in (
            (isolation.service, f"unit{i}", isolation.service_host(i)),
            (unit, "wire", isolation.unit_host(i)),
        ):
            _ip("-n", name, "address", "add", f"{host}/30", "dev", device)
            _ip("-n", name, "link", "set", device, "up")


def _remove_abandoned() -> None:
    """Namespaces outlive a process that was killed: remove those whose maker is gone."""
    for path in _NAMES.glob(f"{_PREFIX}-*-*"):
        maker = path.name.split("-")[1]
        if maker.isdecimal() and not Path("/proc", maker).exists():
            _ip("netns", "delete", path.name, must=False)


def _ip(*arguments: str, must: bool = True) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if must and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise IsolationError(
            f"`ip {' '.join(arguments)}` failed: {said}; network namespaces need root (or "
            "CAP_NET_ADMIN and CAP_SYS_ADMIN) and a kernel that lets them be made"
        )
