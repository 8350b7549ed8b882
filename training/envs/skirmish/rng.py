"""Counter-based random numbers: a draw is a hash of what it is for, never of what came before.

So a battle's draws depend on its seed, its number, the game loop and the unit alone, and not on
how many battles run beside it. The mixing function is the two-round 32-bit integer hash with
the constants found by Chris Wellons' "hash-prospector" search; both constants are below 2^31,
so that products of 32-bit values stay inside int64 on every device.
"""

from __future__ import annotations

import torch

_MASK = 0xFFFFFFFF


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


def battle_keys(seed: int, battle_ids: torch.Tensor) -> torch.Tensor:
    """One 32-bit key per battle from the environment's seed and the battles' numbers, [B] int64."""
    words = (seed & _MASK, (seed >> 32) & _MASK)
    key = torch.full_like(battle_ids, 0x9E3779B9)
    for word in words:
        key = _mix(key ^ word)
    key = _mix(key ^ (battle_ids & _MASK))
    return _mix(key ^ ((battle_ids >> 32) & _MASK))


def draw(keys: torch.Tensor, *counters: torch.Tensor | int) -> torch.Tensor:
    """Uniform 32-bit integers in int64: `keys` mixed with each counter in turn (they broadcast)."""
    value = keys
    for counter in counters:
        value = _mix(value ^ ((_mix(torch.as_tensor(counter, device=keys.device) + 1)) & _MASK))
    return value


def unit_interval(bits: torch.Tensor, n_bits: int) -> torch.Tensor:
    """Integers of `n_bits` (at most 24) as float32 in [0, 1)."""
    return bits.to(torch.float32) * (1.0 / (1 << n_bits))
