"""What an agent carries from one step to the next."""

from __future__ import annotations

from typing import NamedTuple


class Memory(NamedTuple):
    """An agent's memory after a step."""

    hidden: bytes
    """float32 [H], little-endian; zeros at an episode's first step."""
    last_action: int
    """-1 if there was none."""
    step: int
    """Steps taken so far, as far as is known: a memory that came without a seal counts from 0."""
