"""How this process's memory is kept."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_MIB = 2**20


def keep_freed_memory() -> None:
    """Let malloc keep what is freed for the next use, instead of giving it back to the system.

    A gradient step takes and frees some 40 MB of tensors. Given back, they are mapped and zeroed
    again page by page at the next step: 1,000 to 5,000 page faults, which take up to a tenth of
    the step. Does something only where the C library is glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)  # the largest value glibc takes
        mallopt(_M_TRIM_THRESHOLD, 1024 * _MIB)
        mallopt(_M_TOP_PAD, 64 * _MIB)
