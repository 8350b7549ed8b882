"""Seals: what they hold, that every byte of one counts, and whom they open for."""

from __future__ import annotations

import hmac
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from serving.errors import InvalidRequest
from serving.models.agent_model import AgentModel
from serving.models.repository import load_model
from serving.steps.memory import Memory
from serving.steps.memory_keys import MemoryKeys
from serving.steps.sealing import NOT_OURS, Sealer
from tests.artifacts import Policy, write_artifact

KEYS: MemoryKeys = {b"new": bytes(range(32)), b"old": bytes(range(32, 64))}
MEMORY = Memory(np.linspace(-1, 1, 6, dtype="<f4").tobytes(), last_action=3, step=7)
SIZE = 1 + 1 + 3 + 16 + 8 + 4 + 4 + 24 + 16


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(lambda: KEYS)


def refused(sealer: Sealer, model: AgentModel, agent_id: int, token: bytes) -> bool:
    """Whether it is, in the words that are the same for whatever is wrong."""
    try:
        sealer.open(model, agent_id, token)
    except InvalidRequest as error:
        return (error.field, error.message) == ("hidden", NOT_OURS)
    return False


def test_what_was_sealed_opens(sealer: Sealer, model: AgentModel) -> None:
    token = sealer.seal(model, 2, MEMORY)
    assert len(token) == SIZE
    assert sealer.open(model, 2, token) == MEMORY
    first = Memory(bytes(24), -1, 2**32)
    assert sealer.open(model, 0, sealer.seal(model, 0, first)) == first._replace(step=2**32 - 1)


def test_a_token_is_what_the_module_says(sealer: Sealer, model: AgentModel) -> None:
    """Opened by hand: HKDF of RFC 5869 over HMAC, and AES-GCM."""
    sealer.seal(model, 1, MEMORY)
    token = sealer.seal(model, 1, MEMORY)
    assert token[:5] == b"\x01\x03new"
    salt, nonce = token[5:21], token[21:33]
    assert nonce == bytes([0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 7])
    extracted = hmac.digest(salt, KEYS[b"new"], "sha256")
    key = hmac.digest(extracted, b"unmix memory\x01", "sha256")
    bound = token[:33] + bytes.fromhex(model.sha256) + bytes([0, 0, 0, 1])
    assert AESGCM(key).decrypt(nonce, token[33:], bound) == bytes([3, 0, 0, 0]) + MEMORY.hidden


def test_no_bit_of_a_token_can_be_changed(sealer: Sealer, model: AgentModel) -> None:
    token = sealer.seal(model, 2, MEMORY)
    for bit in range(8 * SIZE):
        changed = bytearray(token)
        changed[bit // 8] ^= 1 << bit % 8
        assert refused(sealer, model, 2, bytes(changed)), bit
    assert not refused(sealer, model, 2, token)


def test_nothing_can_be_cut_off_added_or_put_together(sealer: Sealer, model: AgentModel) -> None:
    token = sealer.seal(model, 2, MEMORY)
    other = sealer.seal(model, 2, MEMORY._replace(step=8))
    for size in range(SIZE):
        assert refused(sealer, model, 2, token[:size])
        assert size == 0 or refused(sealer, model, 2, token[size:])
        assert size < 29 or refused(sealer, model, 2, token[:size] + other[size:])
    for stranger in (token + b"\0", token * 2, bytes(SIZE), b"\xff" * SIZE, MEMORY.hidden, b"\0"):
        assert refused(sealer, model, 2, stranger)


def test_a_memory_is_one_agents_and_one_models(
    sealer: Sealer, model: AgentModel, tmp_path: Path
) -> None:
    token = sealer.seal(model, 2, MEMORY)
    assert refused(sealer, model, 1, token)
    other = load_model(write_artifact(tmp_path, Policy(seed=5)))  # same name, version and sizes
    assert other.label == model.label
    assert refused(sealer, other, 2, token)


def test_a_replica_with_the_key_opens_it_and_one_without_does_not(
    sealer: Sealer, model: AgentModel
) -> None:
    token = sealer.seal(model, 2, MEMORY)
    assert Sealer(lambda: KEYS).open(model, 2, token) == MEMORY
    # As if its id had been given to another key; and as if it had never been there.
    assert refused(Sealer(lambda: {b"new": KEYS[b"old"]}), model, 2, token)
    assert refused(Sealer(lambda: {b"old": KEYS[b"old"]}), model, 2, token)


def test_keys_rotate_without_a_token_lost(model: AgentModel) -> None:
    old, new = KEYS[b"old"], KEYS[b"new"]
    keys: list[MemoryKeys] = [{b"old": old}]
    here, there = Sealer(lambda: keys[0]), Sealer(lambda: keys[-1])
    first = here.seal(model, 0, MEMORY)
    keys.append({b"old": old, b"new": new})  # one replica knows the new key, and seals with the old
    assert here.open(model, 0, there.seal(model, 0, MEMORY)) == MEMORY
    keys[0] = keys.pop()
    keys.append({b"new": new, b"old": old})
    second = there.seal(model, 0, MEMORY)
    assert second[2:5] == b"new"
    for sealer in (here, there):
        assert sealer.open(model, 0, first) == sealer.open(model, 0, second) == MEMORY
    keys[0] = {b"new": new}
    assert refused(here, model, 0, first)  # though it had opened it before
    assert here.open(model, 0, second) == MEMORY


def test_no_two_tokens_are_alike_and_forged_ones_leave_nothing_behind(
    sealer: Sealer, model: AgentModel
) -> None:
    tokens = {sealer.seal(model, 0, MEMORY) for _ in range(1000)}
    assert len({token[:5] + token[5:33] for token in tokens}) == 1000
    token = next(iter(tokens))
    for number in range(300):
        salt = number.to_bytes(16, "big")
        assert refused(sealer, model, 0, token[:5] + salt + token[21:])
    assert len(sealer._derived) == 1
    for _ in range(300):  # real ones are kept, but not for ever
        sealer.open(model, 0, Sealer(lambda: KEYS).seal(model, 0, MEMORY))
    assert len(sealer._derived) == 256
