"""`python -m training.sc2_api`: Skirmish in the place of StarCraft II, for code that starts it.

    python -m training.sc2_api install FOLDER     lays out what SC2PATH should name
    python -m training.sc2_api serve --port N     runs the game by hand

docs/sc2-api.md says how to run SMAC and PyMARL on it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

DEFAULT_PORT = 5677


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.sc2_api",
        description="Skirmish in the place of StarCraft II, for code that starts the game.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    install = commands.add_parser("install", help="lay out a folder for SC2PATH to name")
    install.add_argument("folder", type=Path)
    serve = commands.add_parser("serve", help="run the game by hand, until a client asks to quit")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 for any that is free")
    chosen = parser.parse_args(arguments)
    _require_packages()
    if chosen.command == "install":
        _install(chosen.folder)
    else:
        _run(chosen.host, chosen.port, goes_with_its_client=False)


def as_the_game(arguments: Sequence[str]) -> None:
    """Take the place of SC2_x64: its command line, of which the address alone matters."""
    parser = argparse.ArgumentParser(
        prog="SC2_x64",
        description="Skirmish in the place of StarCraft II; other arguments of the game's are "
        "accepted and change nothing.",
        allow_abbrev=False,
    )
    parser.add_argument("-listen", default="127.0.0.1")
    parser.add_argument("-port", type=int, required=True)
    chosen, _ = parser.parse_known_args(arguments)
    _require_packages()
    _run(chosen.listen, chosen.port, goes_with_its_client=True)


def _require_packages() -> None:
    try:
        for package in ("s2clientprotocol.sc2api_pb2", "websockets"):
            importlib.import_module(package)
    except ImportError as error:
        raise SystemExit(f"{error}; install what is missing: pip install 'unmix[sc2]'") from None
    except TypeError:  # Blizzard's own package, whose files protobuf 4 and later refuse
        raise SystemExit(
            "the s2clientprotocol that is installed does not fit this protobuf: "
            "pip uninstall s2clientprotocol && pip install --force-reinstall pys2clientprotocol"
        ) from None


def _install(folder: Path) -> None:
    from training.envs.sc2_api.installation import InstallationError, install

    try:
        path = install(folder)
    except (InstallationError, OSError) as error:
        raise SystemExit(str(error)) from None
    print(f"export SC2PATH={path}")


def _run(host: str, port: int, goes_with_its_client: bool) -> None:
    from training.envs.sc2_api.server import run_server

    try:
        run_server(host, port, goes_with_its_client)
    except OSError as error:
        raise SystemExit(f"cannot listen at {host}:{port}: {error.strerror}") from None
    except KeyboardInterrupt:
        pass
    sys.stderr.flush()
    os._exit(0)  # a compiler at work beside the battle would be waited for


if __name__ == "__main__":
    main()
