"""How one worker asks another: frames over Unix sockets, in a folder that is the workers' own.

A frame is its length (4 bytes, big-endian) and so many bytes. A connection carries one question at
a time and is kept for the next one.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

_LENGTH = struct.Struct(">I")
_Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def socket_path(folder: Path, number: int) -> Path:
    """Where a worker listens to the others."""
    return folder / f"{number}.sock"


class Peers:
    """The other workers, by number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._free: dict[int, list[_Streams]] = {}
        """Connections that carry no question at the moment."""

    async def ask(self, number: int, question: bytes, timeout_s: float) -> bytes:
        """The worker's answer. Raises: TimeoutError, OSError: the worker is not there"""
        async with asyncio.timeout(timeout_s):
            free = self._free.setdefault(number, [])
            while free:
                try:
                    return await self._exchange(number, free.pop(), question)
                except (OSError, EOFError):
                    continue  # it led to a process that has died; there may be a new one
            path = str(socket_path(self._folder, number))
            try:
                return await self._exchange(
                    number, await asyncio.open_unix_connection(path), question
                )
            except EOFError:
                raise ConnectionResetError(f"worker {number} has died") from None

    async def _exchange(self, number: int, streams: _Streams, question: bytes) -> bytes:
        """Raises: OSError, EOFError"""
        reader, writer = streams
        try:
            _write(writer, question)
            answer = await _read(reader)
        except BaseException:
            writer.close()
            raise
        self._free[number].append(streams)
        return answer


async def answer_peers(
    folder: Path, number: int, answer: Callable[[bytes], Awaitable[bytes]]
) -> asyncio.Server:
    """Listen as the worker of this number; the caller closes what is returned."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                _write(writer, await answer(await _read(reader)))
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the other worker has died, or this one ends
        finally:
            writer.close()

    path = socket_path(folder, number)
    path.unlink(missing_ok=True)  # of a process that had this number and has died
    return await asyncio.start_unix_server(converse, str(path))


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(_LENGTH.pack(len(data)) + data)


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Raises: OSError, EOFError"""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return await reader.readexactly(length)
