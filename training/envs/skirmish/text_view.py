"""A battle as text, for terminals and logs."""

from __future__ import annotations

from training.envs.skirmish.scenario import MAP_SIZE, Scenario
from training.envs.skirmish.world import World

ALLY, ENEMY, BOTH, GROUND, BLOCKED = "aE*.#"


def text_view(world: World, scenario: Scenario, n_allies: int, battle: int = 0) -> str:
    """The map with north at the top, one character a cell, and a line for each living unit.

    `a` is a cell with agents, `E` one with enemies, `*` one with both, `#` cannot be entered.
    """
    x, y, health, shield = (
        values[:, battle].tolist() for values in (world.x, world.y, world.health, world.shield)
    )
    cells = [
        [
            GROUND if scenario.terrain.pathable[column, row] else BLOCKED
            for column in range(MAP_SIZE)
        ]
        for row in range(MAP_SIZE)
    ]
    lines = []
    for unit, life in enumerate(health):
        if life <= 0:
            continue
        side, name = (ALLY, "agent") if unit < n_allies else (ENEMY, "enemy")
        row, column = (min(max(int(place), 0), MAP_SIZE - 1) for place in (y[unit], x[unit]))
        other = ENEMY if side == ALLY else ALLY
        cells[row][column] = BOTH if cells[row][column] in (other, BOTH) else side
        number = unit if unit < n_allies else unit - n_allies
        protection = f" +{shield[unit]:g} shield" if shield[unit] > 0 else ""
        lines.append(f"{name} {number}: {life:g}{protection} at ({x[unit]:.2f}, {y[unit]:.2f})")
    return "\n".join(["".join(row) for row in reversed(cells)] + lines)
