"""What a game and one of its units tell each other: a message an observation, a message an action.

They are datagrams of a local socket (SOCK_SEQPACKET), so that each arrives whole or not at all.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

READY = b"ready"
"""What a unit says first."""

_SEEN = struct.Struct("<qqI")
_DONE = struct.Struct("<qqq")
MOST_BYTES = 1 << 16


class Seen(NamedTuple):
    """What the game shows a unit."""

    battle: int
    """Number of the battle; another one begins an episode."""
    step: int
    obs: npt.NDArray[np.float32]
    """[O]"""
    avail_actions: npt.NDArray[np.bool_]
    """[U]"""

    def pack(self) -> bytes:
        head = _SEEN.pack(self.battle, self.step, len(self.avail_actions))
        return head + self.avail_actions.tobytes() + self.obs.astype("<f4").tobytes()

    @classmethod
    def unpack(cls, message: bytes) -> Seen:
        battle, step, n_actions = _SEEN.unpack_from(message)
        obs = np.frombuffer(message, "<f4", offset=_SEEN.size + n_actions)
        return cls(battle, step, obs, np.frombuffer(message, np.bool_, n_actions, _SEEN.size))


class Done(NamedTuple):
    """What a unit answers."""

    battle: int
    step: int
    action: int

    def pack(self) -> bytes:
        return _DONE.pack(*self)

    @classmethod
    def unpack(cls, message: bytes) -> Done:
        return cls(*_DONE.unpack(message))
