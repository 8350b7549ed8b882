"""One game: SMAC's `StarCraft2Env` behind a pipe, in a process and perhaps a Python of its own.

    python worker.py DESCRIPTOR PARENT     plays what comes through the pipe
    python worker.py check                 says as JSON whether SMAC can be imported

Only the standard library, numpy and smac are imported, and what goes through the pipe is made of
Python's own types, so that neither Python nor numpy need be the trainer's.

The game ends with this process, and this process with its parent, however they end. SMAC itself
answers a broken connection with a new game, reward 0 and an ended episode; here it is the end of
this process, with the reason.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

HOW = "docs/environments.md"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class SetupError(Exception):
    """SMAC cannot be imported; the message says what to do."""


class BrokenOffError(Exception):
    """The game has broken off."""


def import_smac() -> Any:
    """`StarCraft2Env` of oxwhirl's smac.

    Raises:
        SetupError: it is not to be had.
    """
    python = sys.executable
    try:
        from smac.env import StarCraft2Env
    except ModuleNotFoundError as error:
        if error.name == "smac":
            raise SetupError(
                f"{python} has no SMAC: install it as {HOW} says, or name a Python that has it in "
                "UNMIX_SMAC_PYTHON"
            ) from None
        if error.name in ("smac.env", "smac.env.starcraft2") or _is_smac3():
            raise SetupError(
                f"the smac in {python} is PyPI's SMAC3, another project: "
                f"{python} -m pip uninstall smac, then install oxwhirl's ({HOW})"
            ) from None
        raise SetupError(f"SMAC in {python} lacks {error.name}: install it there ({HOW})") from None
    except TypeError as error:
        if "Descriptors cannot" not in str(error):
            raise
        raise SetupError(
            f"Blizzard's s2clientprotocol does not fit the protobuf of {python}: {python} -m pip "
            "uninstall s2clientprotocol, then -m pip install --force-reinstall pys2clientprotocol"
        ) from None
    except ImportError as error:
        raise SetupError(f"SMAC in {python} cannot be imported: {error} ({HOW})") from None
    return StarCraft2Env


def _is_smac3() -> bool:
    import importlib.util

    spec = importlib.util.find_spec("smac")
    places = (spec and spec.submodule_search_locations) or []
    return not any(os.path.isdir(os.path.join(place, "env")) for place in places)


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, also while it computes."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


class MortalPopen(subprocess.Popen):  # type: ignore[type-arg]  # a Python may be old
    """A process that ends with this one: what SMAC starts through pysc2 is the game."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        me = os.getpid()
        super().__init__(*args, preexec_fn=lambda: die_with(me), **kwargs)  # type: ignore[call-overload]


class Player:
    """Answers orders with what SMAC shows."""

    def __init__(self, build: Any) -> None:
        self._build = build
        self._env: Any = None

    def reset(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Begin a battle; the first one starts the game with these arguments."""
        version = None
        if self._env is None:
            self._env = self._build(**arguments)
            # SMAC would go on with a game of its own making.
            self._env.full_restart = _broken_off
            self._env.reset()
            version = _version(self._env)
        else:
            # Else a first battle that is left early would start a second game.
            self._env._episode_count = max(self._env._episode_count, 1)
            self._env.reset()
        return {**self._shown(), "version": version}

    def step(self, actions: list[int]) -> dict[str, Any]:
        timeouts = self._env.timeouts
        reward, terminated, info = self._env.step(actions)
        if not info:
            raise BrokenOffError("SMAC says nothing of the step")
        timed_out = self._env.timeouts > timeouts
        return {
            **self._shown(),
            "reward": float(reward),
            "terminated": bool(terminated) and not timed_out,
            "truncated": timed_out,
            "battle_won": bool(info["battle_won"]),
            "dead_allies": int(info["dead_allies"]),
            "dead_enemies": int(info["dead_enemies"]),
        }

    def _shown(self) -> dict[str, bytes]:
        import numpy as np

        return {
            "obs": np.asarray(self._env.get_obs(), np.float32).tobytes(),
            "state": np.asarray(self._env.get_state(), np.float32).tobytes(),
            "avail_actions": np.asarray(self._env.get_avail_actions(), np.uint8).tobytes(),
        }


def _broken_off() -> None:
    error = sys.exc_info()[1]
    raise BrokenOffError(f"{type(error).__name__}: {error}" if error else "SMAC starts it anew")


def _version(env: Any) -> str:
    """As the game itself says it."""
    pong = env._controller.ping()
    return f"{pong.game_version} (base {pong.base_build})"


def main(descriptor: int, parent: int) -> None:
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer decides when this process ends
    sys.path.pop(0)  # this file's folder
    subprocess.Popen = MortalPopen  # type: ignore[misc]
    pipe = Connection(descriptor)
    try:
        player = Player(import_smac())
        pipe.send(("ready", None))
        while True:
            order, given = pipe.recv()
            pipe.send(("done", getattr(player, order)(given)))
    except EOFError:
        pass  # the trainer has gone
    except SetupError as error:
        pipe.send(("setup", str(error)))
    except BaseException as error:
        traceback.print_exc()
        pipe.send(("broken", f"{type(error).__name__}: {error}"))


def check() -> None:
    """For the doctor: the Python, and what is wrong with SMAC in it."""
    sys.path.pop(0)
    found = {"python": platform.python_version(), "problem": None}
    try:
        import_smac()
    except SetupError as error:
        found["problem"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        if sys.argv[1] == "check":
            check()
        else:
            main(int(sys.argv[1]), int(sys.argv[2]))
    except OSError:
        pass  # the trainer has gone, or has given this game up
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # SMAC would have the game quit in its own time; it ends with us
