"""Functions of tensors, compiled where a compiler is at hand.

On a CPU torch turns a function into C++ and needs g++ or clang for it: half a minute for the first
time, kept in torch's cache on disk for the next. On a GPU it records CUDA graphs. On a CPU compiled
and eager functions give the same bits (the code keeps to operations that are rounded alike), so it
makes no difference to a battle whether, or when, one of them falls back.
"""

from __future__ import annotations

import dataclasses
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, device: torch.device, same_shapes: bool = False) -> F:
    """The function as it runs fastest on the device; itself, with one warning, if that fails.

    What is no tensor (maps, options, tables' flags) is built in when it is first called and must
    not change after: looking whether it has takes a fifth of a small step's time.

    Args:
        same_shapes: the caller's promise that all tensors are dense, and that the above holds of
            their types and shapes too, so that nothing is looked at: half of a small step's time.
            No two of the first call's tensors may be one.
    """
    on_gpu = device.type == "cuda"
    options: dict[str, Any] = {"guard_filter_fn": _about_nothing if same_shapes else _about_tensors}
    if same_shapes:
        options |= {"size_asserts": False, "alignment_asserts": False}
    if on_gpu:
        options["triton.cudagraphs"] = True
    fast = torch.compile(_copy(function), fullgraph=True, dynamic=False, options=options)
    current: Callable[..., Any] = fast

    def run(*args: Any) -> Any:
        nonlocal current
        if current is function:
            return function(*args)
        try:
            if not on_gpu:
                return fast(*args)
            # A CUDA graph's next run writes over what its last one returned.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            return _copied(fast(*args))
        except Exception as error:
            current = function
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"the simulator runs uncompiled, and slower: {reason}", stacklevel=2)
            return function(*args)

    return run  # type: ignore[return-value]


def _about_tensors(guards: Sequence[Any]) -> list[bool]:
    """Of what torch would look at before each call, the tensors' types and shapes, and which of
    them are one and the same: a graph made for two names of one tensor fits no others."""
    return [guard.guard_type in ("TENSOR_MATCH", "DUPLICATE_INPUT") for guard in guards]


def _about_nothing(guards: Sequence[Any]) -> list[bool]:
    return [False] * len(guards)


def _copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as another object: torch keeps what it has compiled by the function's
    code, and would take what was built in for one environment for another's."""
    if isinstance(function, types.MethodType):
        return types.MethodType(_copy(function.__func__), function.__self__)
    assert isinstance(function, types.FunctionType)
    code, name = function.__code__.replace(), function.__name__
    defaults, closure = function.__defaults__, function.__closure__
    return types.FunctionType(code, function.__globals__, name, defaults, closure)


def _copied(values: Any) -> Any:
    """A tensor, or a tuple or dataclass of them, in memory of its own."""
    if isinstance(values, torch.Tensor):
        return values.clone()
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        fields = {f.name: _copied(getattr(values, f.name)) for f in dataclasses.fields(values)}
        return type(values)(**fields)
    if isinstance(values, tuple):
        copies = (_copied(value) for value in values)
        return type(values)(*copies) if hasattr(values, "_fields") else tuple(copies)
    return values
