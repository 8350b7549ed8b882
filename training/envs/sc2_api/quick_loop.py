"""The simulator's loop for one battle at a time, which is nothing but overhead until compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from training.envs.skirmish.compiled import compiled
from training.envs.skirmish.loop import tick
from training.envs.skirmish.world import Tables, World

WORTH_COMPILING = 2000
"""Game loops: who has played so many is here to stay. Compiling takes as long as some thousand."""


class QuickLoop:
    """Plays game loops, compiled as soon as that is worth it.

    The compiler runs beside the battle, which goes on uncompiled until it has finished; the bits
    are the same.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._tick: Callable[[World, Tensor, Tensor], World] = self._plain
        self._played = 0
        self._compiler: threading.Thread | None = None

    def _plain(self, world: World, keys: Tensor, loop: Tensor) -> World:
        return tick(world, self._tables, keys, loop)

    def __call__(self, world: World, keys: Tensor, first: int, count: int) -> World:
        """The world `count` game loops on, the first of them being number `first` of its battle."""
        for loop in range(first, first + count):
            world = self._tick(world, keys, torch.tensor([loop]))
        self._played += count
        if self._compiler is None and self._played >= WORTH_COMPILING:
            arguments = (_apart(world), keys.clone())
            self._compiler = threading.Thread(target=self._compile, args=arguments, daemon=True)
            self._compiler.start()
        return world

    def _compile(self, world: World, keys: Tensor) -> None:
        tables = self._tables

        # The tables are built in: passing them would take a third of the time.
        def played(world: World, keys: Tensor, loop: Tensor) -> World:
            return tick(world, tables, keys, loop)

        fast = compiled(played, torch.device("cpu"), same_shapes=True)
        fast(world, keys, torch.tensor([0]))
        self._tick = fast


def _apart(world: World) -> World:
    """The same in memory of its own, no two tensors being one: the compiler would take it for a
    rule."""
    return World(**{f.name: getattr(world, f.name).clone() for f in fields(World)})
