"""Carried memory under seal: the caller keeps it between steps, and can neither read nor change it.

A token is, in bytes:

    1       format, 1
    1 + n   length and text of the key's id
    16      salt of the process that sealed
    8       its count of seals, big-endian
    4       step: how many steps of the episode lie behind this memory, big-endian
    4 + 4H  last action int32 and hidden float32 [H], little-endian, encrypted
    16      AES-GCM's tag

The tag covers all of it, and with it the model (sha256 of model.onnx) and the agent's id, which the
token does not hold: a memory opens for the agent and the very weights that it was made with.

Each process seals with a key of its own, derived from the shared one by a random salt, and counts
its seals. So no nonce is ever used twice, however many replicas share a key and however long they
run (random nonces would have to end after 2^32 tokens of one key).

A token says nothing about what came after it: the memory of an earlier step can be sent again, as
carried memory must allow for a caller that tries a step a second time.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serving.errors import InvalidRequest
from serving.models.agent_model import AgentModel
from serving.steps.memory import Memory
from serving.steps.memory_keys import MemoryKeys

NOT_OURS = "hidden is no memory that was sealed here for this agent and this model version"
"""All there is to know about a token that does not open."""

_FORMAT = 1
_SALT = 16
_COUNT_AND_STEP = struct.Struct(">QI")
"""Together AES-GCM's nonce: 12 bytes that a process never uses twice, as its count sees to."""
_LAST_ACTION = struct.Struct("<i")
_MAX_DERIVED = 256
_MAX_STEP = 2**32 - 1


class Sealer:
    """Seals and opens memories with the keys that are in force at the moment.

    Args:
        keys: called for each token; what it returns may change between two.
    """

    def __init__(self, keys: Callable[[], MemoryKeys]) -> None:
        self._keys = keys
        self._salt = os.urandom(_SALT)
        self._count = 0
        self._derived: OrderedDict[tuple[bytes, bytes], AESGCM] = OrderedDict()

    def seal(self, model: AgentModel, agent_id: int, memory: Memory) -> bytes:
        """The token that holds this memory, by the first key."""
        key_id, key = next(iter(self._keys().items()))
        derived = self._derive(key, self._salt)
        self._keep(key, self._salt, derived)
        self._count += 1
        count_and_step = _COUNT_AND_STEP.pack(self._count, min(memory.step, _MAX_STEP))
        head = b"%c%c%b%b%b" % (_FORMAT, len(key_id), key_id, self._salt, count_and_step)
        plain = _LAST_ACTION.pack(memory.last_action) + memory.hidden
        return head + derived.encrypt(count_and_step, plain, _bound_to(head, model, agent_id))

    def open(self, model: AgentModel, agent_id: int, token: bytes) -> Memory:
        """The memory in a token of any of the keys.

        Raises:
            InvalidRequest: naming `hidden`, with one and the same message whatever is wrong.
        """
        try:
            return self._open(model, agent_id, token)
        except (InvalidTag, LookupError, ValueError, struct.error):
            raise InvalidRequest("hidden", NOT_OURS) from None

    def _open(self, model: AgentModel, agent_id: int, token: bytes) -> Memory:
        """Raises: InvalidTag, LookupError, ValueError, struct.error"""
        if token[0] != _FORMAT:
            raise ValueError("another format")
        salt_at = 2 + token[1]
        count_at = salt_at + _SALT
        sealed_at = count_at + _COUNT_AND_STEP.size
        head, sealed = token[:sealed_at], token[sealed_at:]
        if len(sealed) != _LAST_ACTION.size + model.hidden_bytes + 16:
            raise ValueError("another length")
        key, salt = self._keys()[head[2:salt_at]], head[salt_at:count_at]
        derived = self._derive(key, salt)
        plain = derived.decrypt(head[count_at:], sealed, _bound_to(head, model, agent_id))
        self._keep(key, salt, derived)  # only now: forged salts must not push out real ones
        _, step = _COUNT_AND_STEP.unpack_from(head, count_at)
        (last_action,) = _LAST_ACTION.unpack_from(plain)
        return Memory(plain[_LAST_ACTION.size :], last_action, step)

    def _derive(self, key: bytes, salt: bytes) -> AESGCM:
        """The key of the process with this salt."""
        derived = self._derived.get((key, salt))
        if derived is None:
            derived = AESGCM(HKDF(SHA256(), 32, salt, b"unmix memory").derive(key))
        return derived

    def _keep(self, key: bytes, salt: bytes, derived: AESGCM) -> None:
        self._derived[key, salt] = derived
        self._derived.move_to_end((key, salt))
        if len(self._derived) > _MAX_DERIVED:
            self._derived.popitem(last=False)


def _bound_to(head: bytes, model: AgentModel, agent_id: int) -> bytes:
    return b"%b%b%b" % (head, bytes.fromhex(model.sha256), agent_id.to_bytes(4, "big"))
