"""The simulator's loop for one battle at a time, which is nothing but overhead until compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from training.envs.skirmish.compiled import compiled
from training.envs.skirmish.loop import tick
from training.envs.skirmish.orders import Orders, obey
from training.envs.skirmish.world import Tables, World

WORTH_COMPILING = 2000
"""Game loops: who has played so many is here to stay. Compiling takes as long as some thousand."""


class QuickLoop:
    """Obeys orders and plays game loops, compiled as soon as that is worth it.

    The compiler runs beside the battle, which goes on uncompiled until it has finished; the bits
    are the same. The tables are built in: passing them would take a third of the time.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._tick: Callable[[World, Tensor, Tensor], World] = self._plain_tick
        self._obey: Callable[[World, Orders], World] = self._plain_obey
        self._played = 0
        self._compiler: threading.Thread | None = None

    def obey(self, world: World, orders: Orders) -> World:
        """The world right after the orders."""
        return self._obey(world, orders)

    def play(self, world: World, keys: Tensor, first: int, count: int) -> World:
        """The world `count` game loops on, the first of them being number `first` of its battle."""
        for loop in range(first, first + count):
            world = self._tick(world, keys, torch.tensor([loop]))
        self._played += count
        if self._compiler is None and self._played >= WORTH_COMPILING:
            arguments = (apart(world), keys.clone())
            self._compiler = threading.Thread(target=self._compile, args=arguments, daemon=True)
            self._compiler.start()
        return world

    def _plain_tick(self, world: World, keys: Tensor, loop: Tensor) -> World:
        return tick(world, self._tables, keys, loop)

    def _plain_obey(self, world: World, orders: Orders) -> World:
        return obey(world, self._tables, orders)

    def _compile(self, world: World, keys: Tensor) -> None:
        """Compile both on a world like all that will come, and take them into use."""
        cpu, n = torch.device("cpu"), self._tables.n_allies
        fast_tick = compiled(self._plain_tick, cpu, same_shapes=True)
        fast_obey = compiled(self._plain_obey, cpu, same_shapes=True)
        # (No two tensors are one, which the compiler would take for a rule.)
        given, order, target, x, y = torch.zeros((5, n, 1)).unbind()
        orders = Orders(given.bool(), order.long(), target.long(), x.clone(), y.clone())
        fast_obey(world, orders)
        fast_tick(world, keys, torch.tensor([0]))
        self._tick, self._obey = fast_tick, fast_obey


def apart(world: World) -> World:
    """The same, each tensor dense and in memory of its own: what is compiled counts on it."""
    dense = torch.contiguous_format
    return World(
        **{f.name: getattr(world, f.name).clone(memory_format=dense) for f in fields(World)}
    )
