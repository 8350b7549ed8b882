"""The key file: what is refused, and that what is in force is never worse than what was."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from serving.steps.memory_keys import MemoryKeyFile, MemoryKeysError, parse_memory_keys

A, B = bytes(range(32)), bytes(range(32, 64))


def line(key_id: str, key: bytes) -> str:
    return f"{key_id} {base64.b64encode(key).decode()}\n"


def test_the_order_of_the_file_is_kept() -> None:
    text = "# ours\n\n" + line("new", B) + "  " + line("old.1", A)
    assert list(parse_memory_keys(text).items()) == [(b"new", B), (b"old.1", A)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no key in it"),
        ("# only words\n", "there is no key in it"),
        (line("a", A) + "b\n", "line 2 is not an id"),
        ("a b c\n", "line 1 is not an id"),
        (line("ö", A), "line 1 is not an id"),
        (line("x" * 33, A), "line 1 is not an id"),
        ("a *secret*\n", "line 1: the key is not base64"),
        (line("a", A[:16]), "line 1: the key has 16 bytes; it takes 32"),
        (line("a", A) + line("a", B), "line 2 has the id of a line above"),
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str, message: str) -> None:
    with pytest.raises(MemoryKeysError, match=message) as caught:
        parse_memory_keys(text)
    assert "secret" not in str(caught.value)
    assert base64.b64encode(A).decode() not in str(caught.value)


def test_a_file_that_is_none_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(MemoryKeysError, match="No such file"):
        MemoryKeyFile(tmp_path / "nothing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(MemoryKeysError, match="not ASCII"):
        MemoryKeyFile(tmp_path / "binary")
    (tmp_path / "long").write_bytes(b"#" * 65537)
    with pytest.raises(MemoryKeysError, match="larger than 65536 bytes"):
        MemoryKeyFile(tmp_path / "long")


def test_a_changed_file_is_read_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(line("a", A))
    keys = MemoryKeyFile(path)
    keys.reload_if_changed()
    assert keys() == {b"a": A}
    beside = tmp_path / "beside"  # as whoever rotates keys should: never half a file
    beside.write_text(line("b", B) + line("a", A))
    os.replace(beside, path)
    keys.reload_if_changed()
    assert list(keys()) == [b"b", b"a"]
    path.write_text("nonsense")
    keys.reload_if_changed()
    assert list(keys()) == [b"b", b"a"]
    path.unlink()
    keys.reload_if_changed()
    keys.reload()
    assert list(keys()) == [b"b", b"a"]
    path.write_text(line("c", A))
    keys.reload_if_changed()
    assert keys() == {b"c": A}
