"""A unit that outlives its connections: it keeps its last memory and goes on from there.

A step is a function of observation and memory alone, so a step tried again, on the same server or
another replica, gives the action that the first try would have given.
"""

from __future__ import annotations

import asyncio

import numpy.typing as npt

from serving.client import (
    Checkpoint,
    Memory,
    PolicyUrl,
    ServingClientError,
    UnitClient,
    open_unit,
)
from serving.client.credentials import Credentials
from serving.client.retry import RETRIED, Retry

_TRIES_IN_TIME = 3
"""How many tries that get no answer at all fit into a step's time limit."""


class ResumingUnit(UnitClient):
    """One connection at a time, replaced by another when it fails."""

    def __init__(
        self,
        url: PolicyUrl,
        agent_id: int,
        memory: Memory,
        timeout_s: float,
        retry: Retry,
        credentials: Credentials,
    ) -> None:
        super().__init__(url, agent_id, timeout_s, credentials)
        self._urls = [url, *map(PolicyUrl.parse, retry.elsewhere)]
        if len({other.is_grpc for other in self._urls}) > 1:
            raise ValueError("a unit's addresses must all be grpc(s):// or all http(s)://")
        for other in self._urls:  # now, rather than at the first step there
            credentials.metadata(other.host, other.is_secure)
        if any(other.is_secure for other in self._urls):
            credentials.ssl_context()
        self._place = 0
        self._memory: Memory = memory
        self._retry = retry
        self._checkpoint: Checkpoint | None = None
        self._unit: UnitClient | None = None
        self._placed = False
        """Whether the connection is where the unit is in its episode."""
        self._failure = ""
        """Of this step's last try."""

    async def begin_episode(self) -> None:
        self._checkpoint, self._placed = None, False

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self._checkpoint

    async def resume(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._placed = checkpoint, False

    async def act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        self._failure = ""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._act(obs, avail_actions)
        except TimeoutError:
            await self._drop()
            raise ServingClientError(
                "DEADLINE_EXCEEDED", f"no answer in {self.timeout_s} s, from any try{self._failure}"
            ) from None

    async def _act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        waits = self._retry.waits()
        while True:
            try:
                return await self._try(obs, avail_actions)
            except ServingClientError as error:
                self._failure = f"; the last one: {error}"
                unit = self._unit
                forgotten = unit is not None and self._placed and unit.is_forgotten(error)
                if error.status != "429":  # a busy server still has what it held
                    await self._drop()
                if not (forgotten or error.status in RETRIED):
                    raise
                wait = next(waits, None)
                if wait is None:
                    raise
            await asyncio.sleep(wait)

    async def _try(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        if self._unit is None:
            self._unit = self._open()
        unit = self._unit
        if not self._placed:
            if self._checkpoint is None:
                await unit.begin_episode()
            else:
                await unit.resume(self._checkpoint)
            self._placed = True
        action = await unit.act(obs, avail_actions)
        self._checkpoint = unit.checkpoint
        self.model, self.version = unit.model, unit.version
        return action

    def _open(self) -> UnitClient:
        try:
            return open_unit(
                self._urls[self._place],
                self.agent_id,
                self._memory,
                self.timeout_s / _TRIES_IN_TIME,
                self.credentials,
                keep_memory=True,
            )
        except ValueError as error:  # a certificate that is being replaced just now
            raise ServingClientError("UNREACHABLE", str(error)) from None

    async def _drop(self) -> None:
        """The next try is at the next address, on a connection of its own."""
        self._place = (self._place + 1) % len(self._urls)
        await self.abandon()

    async def abandon(self) -> None:
        unit, self._unit, self._placed = self._unit, None, False
        if unit is not None:
            await unit.abandon()

    async def close(self) -> None:
        if self._unit is not None:
            try:
                await self._unit.close()
            except Exception:  # the server is gone, in whatever way
                await self.abandon()
