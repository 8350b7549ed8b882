"""API keys: a file of names, roles and hashes, of which no key can be told.

    # one line a key
    trainer  act          sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    grafana  observe      sha256:...
    ops      act,observe  sha256:...

A key holds 256 random bits, so that a plain SHA-256 is as good as a slow hash, which is for
passwords that people choose. It also holds its name: one line is compared, however many there are.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from serving.access.watched import read_text
from serving.settings import Role, SetupError

PREFIX = "unmix_"
"""Lets scanners for leaked secrets, and us, tell a key from a JWT."""
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_ROLES: frozenset[str] = frozenset(get_args(Role))
_NOBODY = bytes(32)


@dataclass(frozen=True)
class Key:
    """One line of the file."""

    name: str
    roles: frozenset[Role]
    digest: bytes
    """SHA-256 of the whole key."""

    def line(self) -> str:
        return f"{self.name} {','.join(sorted(self.roles))} sha256:{self.digest.hex()}"


def new_key(name: str, roles: Iterable[str]) -> tuple[str, Key]:
    """(the key itself, what to keep of it). Raises: SetupError"""
    roles = frozenset(roles)
    if not roles or not roles <= _ROLES:
        raise SetupError("a role is none", f"use one or more of {', '.join(sorted(_ROLES))}")
    if not NAME.fullmatch(name):
        raise SetupError(
            "a key's name has other characters, or more, than it may",
            "use 1 to 32 of a-z, 0-9, '.' and '-', a letter or digit first",
        )
    text = f"{PREFIX}{name}_{secrets.token_urlsafe(32)}"
    return text, Key(name, cast(frozenset[Role], roles), _digest(text))


def find_key(keys: dict[str, Key], text: str) -> Key | None:
    """The line of the key that a caller shows, if there is one.

    It takes as long whether or not the name is known and however much of the hash is right.
    """
    name = text.removeprefix(PREFIX).partition("_")[0]
    key = keys.get(name)
    same = hmac.compare_digest(_digest(text), _NOBODY if key is None else key.digest)
    return key if same else None


def read_keys(path: Path) -> dict[str, Key]:
    """The keys by name. Raises: SetupError, naming the line but never what is in it"""
    keys: dict[str, Key] = {}
    for number, line in enumerate(read_text(path, "keys").splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        key = _key(words)
        if isinstance(key, str):
            raise SetupError(
                f"keys: {path} line {number}: {key}",
                "write NAME ROLE sha256:HEX, as `unmix-serve key new --name NAME --role ROLE` "
                "prints it",
            )
        if key.name in keys:
            raise SetupError(
                f"keys: {path} line {number}: the name is there twice", "give one another name"
            )
        keys[key.name] = key
    return keys


def _key(words: list[str]) -> Key | str:
    """The key, or what is wrong with its line."""
    if len(words) != 3:
        return f"has {len(words)} words, not 3"
    name, roles, digest = words[0], words[1].split(","), _HASH.fullmatch(words[2])
    if not NAME.fullmatch(name):
        return "the name is none"
    if not set(roles) <= _ROLES:
        return f"roles are of {', '.join(sorted(_ROLES))}"
    if digest is None:
        return "the hash is not sha256: and 64 hexadecimal digits"
    return Key(name, frozenset(cast(list[Role], roles)), bytes.fromhex(digest[1]))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
