"""API keys: made once, kept as hashes, found in constant time, refused with the line's number."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from serving.access.keys import Key, find_key, new_key, read_keys
from serving.settings import SetupError

HEX = hashlib.sha256(b"unmix_trainer_secret").hexdigest()


def test_a_key_is_found_by_its_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n  trainer   act,observe sha256:{HEX}   # the trainer's\n")
    keys = read_keys(file)
    trainer = Key("trainer", frozenset({"act", "observe"}), bytes.fromhex(HEX))
    assert keys == {"trainer": trainer}
    assert find_key(keys, "unmix_trainer_secret") == trainer
    for wrong in (
        "",
        "unmix_",
        "unmix_trainer",
        "unmix_trainer_",
        "unmix_trainer_secre",
        "unmix_trainer_secret ",
        "unmix_other_secret",
        HEX,
        f"sha256:{HEX}",
        "unmix_trainer_\ud800",
    ):
        assert find_key(keys, wrong) is None


def test_what_new_key_says_to_keep_can_be_read_and_holds_no_secret(tmp_path: Path) -> None:
    text, key = new_key("unit-7.a", frozenset({"act"}))
    assert text.startswith("unmix_unit-7.a_")
    secret = text.rpartition("unmix_unit-7.a_")[2]
    assert len(secret) == 43  # 32 bytes in base64
    assert secret not in key.line()
    file = tmp_path / "keys"
    file.write_text(key.line() + "\n")
    assert find_key(read_keys(file), text) == key
    assert new_key("unit-7.a", frozenset({"act"}))[0] != text


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a" * 33, "a b", "ä", "a\n"])
def test_names_are_from_a_closed_set(name: str) -> None:
    with pytest.raises(SetupError):
        new_key(name, frozenset({"act"}))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("PLANTED", "has 1 words, not 3"),
        (f"PLANTED act sha256:{HEX}", "the name is none"),
        (f"a PLANTED sha256:{HEX}", "roles are of act, admin, observe"),
        (f"a act,PLANTED sha256:{HEX}", "roles are of"),
        ("a act PLANTED", "the hash is not"),
        (f"a act sha256:{HEX[:-1]}", "the hash is not"),
        (f"a act sha256:{HEX}\nb act sha256:{HEX}", "twice"),
    ],
)
def test_a_line_that_makes_no_sense_is_named_but_not_repeated(
    tmp_path: Path, line: str, words: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"b act sha256:{HEX}\n{line}\n")
    with pytest.raises(SetupError) as caught:
        read_keys(file)
    assert words in str(caught.value)
    assert ("line 3" if "twice" in words else "line 2") in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert "PLANTED" not in str(caught.value)
    assert HEX not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        read_keys(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match="is not text"):
        read_keys(tmp_path / "binary")
