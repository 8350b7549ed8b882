"""How much one caller may ask of all workers together: token buckets in a file that they share.

The file is a table of sets of four slots, mapped into every worker. A caller's set follows from its
name; in a set the slot used longest ago is given to whoever is new, who starts with a full bucket.
A lock on the set's byte of the file keeps two workers from counting at once, and ends with its
process. The clock is the machine's monotonic one, which all processes share.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import time
from pathlib import Path

from serving.access.rates import Bucket

_SETS, _WAYS = 4096, 4
_SLOT = struct.Struct("<16sdd")
"""Digest of the caller's name, level, and when that was."""
_SET_BYTES = _WAYS * _SLOT.size


class SharedBuckets:
    """As `rates.Buckets`, for all processes that name the same file."""

    def __init__(self, rate: float, burst: int, path: Path) -> None:
        self._rate, self._burst = rate, burst
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, _SETS * _SET_BYTES)
        self._table = mmap.mmap(self._file, _SETS * _SET_BYTES)

    def of(self, caller: str) -> SharedBucket:
        return SharedBucket(self._rate, self._burst, self._file, self._table, caller)


class SharedBucket(Bucket):
    """One caller's bucket, wherever it is filled and emptied."""

    __slots__ = ("_digest", "_file", "_set", "_table")

    def __init__(self, rate: float, burst: int, file: int, table: mmap.mmap, caller: str) -> None:
        super().__init__(rate, burst, time.monotonic)
        self._file, self._table = file, table
        self._digest = hashlib.blake2b(caller.encode("utf-8", "replace"), digest_size=16).digest()
        self._set = int.from_bytes(self._digest[:4], "little") % _SETS

    def take(self, n: int = 1) -> None:
        """As `Bucket.take`. Raises: RateLimited"""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._set)
        try:
            at = self._find()
            super().take(n)
            self._table[at : at + _SLOT.size] = _SLOT.pack(self._digest, self._level, self._at)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._set)

    def _find(self) -> int:
        """Where the caller's slot is; with its level, or a full one's, to go on from."""
        start = self._set * _SET_BYTES
        oldest, oldest_at = start, float("inf")
        for place in range(start, start + _SET_BYTES, _SLOT.size):
            digest, level, at = _SLOT.unpack_from(self._table, place)
            if digest == self._digest:
                self._level, self._at = level, at
                return place
            if at < oldest_at:
                oldest, oldest_at = place, at
        self._level, self._at = float(self._burst), self._clock()
        return oldest
