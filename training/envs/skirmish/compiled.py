"""Functions of tensors, compiled where a compiler is at hand.

On a CPU torch turns a function into C++ and needs g++ or clang for it: seconds for the first time,
kept in torch's cache on disk for the next. On a GPU it records CUDA graphs. Compiled and eager
functions give the same bits here (the code keeps to operations that are rounded alike), so it
makes no difference to a battle whether, or when, one of them falls back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])
VARIANTS = 256  # compiled forms kept of one function: one for each map and number of battles


def compiled(function: F, device: torch.device) -> F:
    """The function as it runs fastest on the device; itself, with one warning, if that fails."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    mode = "reduce-overhead" if device.type == "cuda" else None
    fast = torch.compile(function, fullgraph=True, dynamic=False, mode=mode)
    current: Callable[..., Any] = fast

    def run(*args: Any) -> Any:
        nonlocal current
        if current is function:
            return function(*args)
        try:
            return fast(*args)
        except Exception as error:
            current = function
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"the simulator runs uncompiled, and slower: {reason}", stacklevel=2)
            return function(*args)

    return run  # type: ignore[return-value]
