"""The keys that seal carried memory: a file that replicas share, read again when it changes.

    # id and key (32 bytes in base64, as from `openssl rand -base64 32`), one pair a line
    2026-11 q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=
    2026-10 EjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8=

The first key seals, all of them open. To rotate: add the new key below the old one on every
replica, then move it to the top, then remove the old one when no episode is as old as that.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
from pathlib import Path
from typing import TypeAlias

from serving.settings import Settings, SetupError

logger = logging.getLogger(__name__)

MemoryKeys: TypeAlias = dict[bytes, bytes]
"""Keys by id, the sealing one first."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")
_KEY_BYTES = 32
_MAX_FILE_BYTES = 64 * 1024


class MemoryKeysError(Exception):
    """The file holds no usable keys. The text names the line and never what it holds."""


class MemoryKeyFile:
    """The keys in force: those of the file when it was last sound."""

    def __init__(self, path: Path) -> None:
        """Raises: MemoryKeysError"""
        self._path = path
        self._seen = _fingerprint(path)
        self._keys = _read(path)

    def __call__(self) -> MemoryKeys:
        return self._keys

    def reload_if_changed(self) -> None:
        """Read the file if it is another than the last time."""
        if _fingerprint(self._path) != self._seen:
            self.reload()

    def reload(self) -> None:
        """Read the file. If it is not sound, the log says so and the keys stay what they are."""
        self._seen = _fingerprint(self._path)
        try:
            keys = _read(self._path)
        except MemoryKeysError as error:
            logger.error("memory keys stay as they are: %s", error)
            return
        if list(keys.items()) != list(self._keys.items()):
            self._keys = keys
            logger.info("memory keys changed: %s", ", ".join(map(bytes.decode, keys)))


def open_memory_keys(settings: Settings) -> MemoryKeyFile | None:
    """The keys that the settings name, or None. Raises: SetupError"""
    if settings.memory_keys is None:
        return None
    try:
        return MemoryKeyFile(settings.memory_keys)
    except MemoryKeysError as error:
        raise SetupError(
            str(error),
            "name in UNMIX_MEMORY_KEYS a file that the server may read, with an id and 32 bytes "
            "of base64 (openssl rand -base64 32) a line",
        ) from None


def parse_memory_keys(text: str) -> MemoryKeys:
    """Raises: MemoryKeysError"""
    keys: MemoryKeys = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not _ID.fullmatch(words[0]):
            raise MemoryKeysError(f"line {number} is not an id (A-Z a-z 0-9 . _ -) and a key")
        try:
            key = base64.b64decode(words[1], validate=True)
        except binascii.Error:
            raise MemoryKeysError(f"line {number}: the key is not base64") from None
        if len(key) != _KEY_BYTES:
            raise MemoryKeysError(
                f"line {number}: the key has {len(key)} bytes; it takes {_KEY_BYTES}"
            )
        key_id = words[0].encode()
        if key_id in keys:
            raise MemoryKeysError(f"line {number} has the id of a line above")
        keys[key_id] = key
    if not keys:
        raise MemoryKeysError("there is no key in it")
    return keys


def _read(path: Path) -> MemoryKeys:
    """Raises: MemoryKeysError, naming the file"""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise MemoryKeysError(f"it is larger than {_MAX_FILE_BYTES} bytes")
        return parse_memory_keys(data.decode("ascii"))
    except OSError as error:
        raise MemoryKeysError(f"memory key file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MemoryKeysError(f"memory key file {path}: it is not ASCII text") from None
    except MemoryKeysError as error:
        raise MemoryKeysError(f"memory key file {path}: {error}") from None


def _fingerprint(path: Path) -> tuple[int, ...]:
    """Another when the file, or what a link in its place points to, has changed."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)
