"""`python -m serving.client.unit`: one unit of a team, a program of its own.

It is shown its own observations through a socket that it is started with, asks its policy, and
answers with its action. It knows of no other unit. What it remembers it also keeps in a file: a
unit that is started again goes on in the middle of a battle as if it had never been away.

A step for which the policy has no answer is left out, and said on stderr; the game goes on, and so
does the unit with the newest observation there is. The base install is enough for a served policy.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy.typing as npt

from serving.client import Checkpoint, Memory, ServingClientError, Unit
from serving.client.credentials import HELP, Credentials
from serving.client.retry import Retry
from serving.client.unit_wire import MOST_BYTES, READY, Done, Seen


class Agent(Protocol):
    """`serving.client.Unit` or `serving.client.local.LocalAgent`."""

    @property
    def checkpoint(self) -> Checkpoint | None: ...
    def begin_episode(self) -> None: ...
    def resume(self, checkpoint: Checkpoint) -> None: ...
    def act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int: ...
    def close(self) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client.unit",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    policy = parser.add_mutually_exclusive_group(required=True)
    policy.add_argument(
        "--server", help="the policy's address, grpc(s)://HOST:PORT/MODEL or http(s)://"
    )
    policy.add_argument("--model", type=Path, help="models/NAME/VERSION, to run it in here")
    parser.add_argument("--agent-id", type=int, required=True)
    parser.add_argument("--socket", type=int, required=True, help="the file descriptor to the game")
    parser.add_argument("--remember", type=Path, required=True, help="file to keep the memory in")
    parser.add_argument("--memory", choices=("held", "carried"), default="held")
    parser.add_argument("--timeout", type=float, default=0.357, help="seconds a step may take")
    given = parser.parse_args(arguments)
    game = socket.socket(fileno=given.socket)
    try:
        agent = _agent(given.server, given.model, given.agent_id, given.memory, given.timeout)
    except ValueError as error:
        parser.error(str(error))
    try:
        play(game, agent, given.remember)
    except (KeyboardInterrupt, ConnectionError):
        pass  # the game is over
    finally:
        agent.close()


def _agent(
    server: str | None, model: Path | None, agent_id: int, memory: Memory, timeout_s: float
) -> Agent:
    if server is not None:
        credentials = Credentials.from_environment()
        return Unit(server, agent_id, memory, timeout_s, Retry(), credentials)
    assert model is not None
    from serving.client.local import LocalAgent  # the one part that takes onnxruntime

    return LocalAgent(model, agent_id)


def play(game: socket.socket, agent: Agent, remember: Path) -> None:
    """Answer what the game shows until it hangs up."""
    battle, kept = _recall(remember)
    if kept is not None:
        agent.resume(kept)
    game.send(READY)
    while (message := _newest(game)) is not None:
        seen = Seen.unpack(message)
        if seen.battle != battle:
            battle = seen.battle
            agent.begin_episode()
        try:
            action = agent.act(seen.obs, seen.avail_actions)
        except ServingClientError as error:
            print(f"battle {battle}, step {seen.step}: {error}", file=sys.stderr, flush=True)
            continue
        _keep(remember, battle, agent.checkpoint)
        game.send(Done(battle, seen.step, action).pack())


def _newest(game: socket.socket) -> bytes | None:
    """Wait for a message, and pass over all that are not the last; None once the game is gone."""
    message = game.recv(MOST_BYTES)
    while message:
        try:
            newer = game.recv(MOST_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return message
        message = newer
    return None


def _keep(path: Path, battle: int, checkpoint: Checkpoint | None) -> None:
    """Replace what the file remembers, at once."""
    if checkpoint is None:
        return
    hidden = checkpoint.hidden
    if isinstance(hidden, bytes):
        hidden = {"base64": base64.b64encode(hidden).decode()}
    kept = {"battle": battle, **checkpoint._asdict(), "hidden": hidden}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(kept))
    os.replace(new, path)


def _recall(path: Path) -> tuple[int | None, Checkpoint | None]:
    """The battle and the place in it that the file remembers."""
    try:
        kept = json.loads(path.read_text())
    except FileNotFoundError:
        return None, None
    hidden = kept["hidden"]
    if isinstance(hidden, dict) and "base64" in hidden:
        hidden = base64.b64decode(hidden["base64"])
    return kept["battle"], Checkpoint(kept["version"], hidden, kept["last_action"])


if __name__ == "__main__":
    main()
