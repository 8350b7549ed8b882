"""The game's socket: one client at a time, at ws://HOST:PORT/sc2api.

A message is one `Request`, answered by one `Response`. Clients send theirs as text frames, though
they hold bytes (websocket-client does so by default); answers go in binary ones (spec §6.2).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import torch
from s2clientprotocol import sc2api_pb2
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from training.envs.sc2_api.game import Game

PATH = "/sc2api"
MOST_BYTES = 64 << 20
"""Of a message: maps are uploaded whole."""


def run_server(host: str, port: int, goes_with_its_client: bool) -> None:
    """Serve until a client has asked to quit.

    Args:
        port: 0 for any that is free; the address is said on stderr.
        goes_with_its_client: whether to end as well when a client has gone without asking, as
            the game's program should that a client has started.

    Raises:
        OSError: the port is not to be had.
    """
    torch.set_num_threads(1)  # a battle's tensors are tiny
    asyncio.run(_serve(host, port, goes_with_its_client))


async def _serve(host: str, port: int, goes_with_its_client: bool) -> None:
    done = asyncio.Event()
    talk, at_door = _one_at_a_time(Game(_say), done, goes_with_its_client)
    async with serve(
        talk,
        host,
        port,
        process_request=at_door,
        compression=None,  # the wire is the machine's own
        max_size=MOST_BYTES,
        ping_interval=None,  # a learner may be silent for minutes
    ) as server:
        at = next(iter(server.sockets)).getsockname()[1]
        _say(f"listening at ws://{host}:{at}{PATH}")
        await done.wait()


def _one_at_a_time(
    game: Game, done: asyncio.Event, goes_with_its_client: bool
) -> tuple[
    Callable[[ServerConnection], Awaitable[None]],
    Callable[[ServerConnection, Request], Response | None],
]:
    """How to talk to a client, and whom to let in."""
    taken = asyncio.Lock()

    def at_door(client: ServerConnection, request: Request) -> Response | None:
        if request.path != PATH:
            return client.respond(HTTPStatus.NOT_FOUND, f"the game is at {PATH}\n")
        if taken.locked():
            return client.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the game has its client\n")
        return None

    async def talk(client: ServerConnection) -> None:
        if taken.locked():  # two were let in at once
            return
        async with taken:
            try:
                while game.status != sc2api_pb2.quit:
                    await client.send(game.answer(await client.recv(decode=False)))
            except ConnectionClosed:
                pass
            if goes_with_its_client or game.status == sc2api_pb2.quit:
                done.set()

    return talk, at_door


def _say(line: str) -> None:
    print(f"skirmish: {line}", file=sys.stderr, flush=True)
