"""Rooms: what a container is to its process, without a Docker engine.

A folder becomes the root of a process of its own namespaces (mounts, process ids, network with
nothing but its loopback). It takes root, and `unshare`, `setpriv` and `nsenter` (util-linux).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_ENTER = r"""
set -e
root=$1 writable=$2; shift 2
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
  mkdir -p "$root$2"; mount --bind "$1" "$root$2"
  [ "$3" = rw ] || mount -o remount,ro,bind "$root$2"
  shift 3
done
shift
mkdir -p "$root/proc" "$root/dev" "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
if [ "$writable" = no ]; then mount -o remount,ro,bind "$root"; mount -t tmpfs tmpfs "$root/tmp"; fi
exec chroot "$root" "$@"
"""
_ETC = (
    "passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "ld.so.conf",
    "ld.so.conf.d", "ssl", "hosts", "resolv.conf", "pip.conf", "xdg/pip",
)  # fmt: skip
_ETC_OF_NETWORK = ("resolv.conf", "pip.conf", "xdg/pip", "ssl/certs/ca-certificates.crt")


@cache
def unavailable() -> str:
    """Why there are no rooms here; empty if there are."""
    if os.geteuid() != 0:
        return "only root can give a process another root"
    for tool in ("unshare", "setpriv", "nsenter", "chroot", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian packages util-linux and iproute2)"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--net", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        check=False,
    )
    return "" if tried.returncode == 0 else "this machine lets nobody make namespaces"


@dataclass
class Room:
    """A root folder, and what is mounted into it: (source, place, "ro" or "rw")."""

    root: Path
    mounts: list[tuple[str, str, str]] = field(default_factory=list)

    def command(
        self,
        words: Sequence[str],
        *,
        environ: Mapping[str, str],
        folder: str = "/",
        user: str = "",
        read_only: bool = False,
        network: bool = True,
        mounts: Sequence[tuple[str, str, str]] = (),
    ) -> list[str]:
        """The command line that runs `words` inside, as process 1, without privileges if it is a
        `user` (UID:GID). Without `network` there is only a loopback of its own."""
        inside = ["/usr/bin/env", "-i", "-C", folder]
        inside += [f"{name}={value}" for name, value in environ.items()]
        if user:
            uid, _, gid = user.partition(":")
            inside = [
                "/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups",
                "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *inside,
            ]  # fmt: skip
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        enter = ["sh", "-c", _ENTER if network else "ip link set lo up" + _ENTER, "enter"]
        pairs = [part for mount in (*self.mounts, *mounts) for part in mount]
        return [
            *unshare, *([] if network else ["--net"]), *enter, str(self.root),
            "no" if read_only else "yes", *pairs, "--", *inside, *words,
        ]  # fmt: skip


def furnish(root: Path, base: Path | None = None) -> Room:
    """A room with this interpreter's Python in /usr/local, as the official images have it.

    Args:
        base: a Debian of its own (`bare_debian`), or None for this machine's /usr, read-only.
    """
    room = Room(root)
    if base is None:
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        (root / "usr" / "local").mkdir(parents=True)
        room.mounts.append(("/usr", "/usr", "ro"))
    else:
        subprocess.run(["cp", "-a", f"{base}/.", str(root)], check=True)
    for name in _ETC if base is None else _ETC_OF_NETWORK:
        _copy(Path("/etc") / name, root / "etc" / name)
    room.mounts.append((sys.base_prefix, "/usr/local", "ro"))
    room.mounts += [(str(place), str(place), "ro") for place in _pip_places()]
    for name in ("opt", "root", "var/log", "var/lib"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    subprocess.run(room.command(["/sbin/ldconfig"], environ={}), check=True)
    return room


def copy(room: Room, root: Path) -> Room:
    """The same room again, at another place."""
    subprocess.run(["cp", "-a", f"{room.root}/.", str(root)], check=True)
    return Room(root, list(room.mounts))


def bare_debian(folder: Path) -> Path:
    """Debian as debootstrap installs it with what Python's own libraries need, made once."""
    root = folder / "bookworm"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        libraries = (
            "libssl3,libffi8,libsqlite3-0,zlib1g,libbz2-1.0,liblzma5,libreadline8,libncursesw6,"
            "libuuid1,ca-certificates"
        )
        command = ["debootstrap", "--variant=minbase", f"--include={libraries}", "bookworm"]
        subprocess.run([*command, str(root)], check=True, capture_output=True)
        (folder / "complete").touch()
    return root


def pip_environ() -> dict[str, str]:
    """What this machine tells pip, and how it reaches an index."""
    told = ("PIP_", "SSL_CERT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    return {name: it for name, it in os.environ.items() if name.upper().startswith(told)}


def pip_cache() -> str:
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _pip_places() -> list[Path]:
    """Folders on this machine that pip is told to look into."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    words = [word.removeprefix("file://") for word in told.replace("'", " ").split()]
    found = {Path("/", *Path(word).parts[1:3]) for word in words if word.startswith("/")}
    return sorted(place for place in found if place.is_dir() and place.parts[1] not in ("etc",))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy2(source, target)
