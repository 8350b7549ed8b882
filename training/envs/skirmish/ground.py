"""What agents learn of the ground: where they may go, and what lies around them (spec §2.3, §2.4).

All of it is read off static grids of 32 x 32 cells: nobody's body ever blocks a move, and flyers
are told the same as everybody else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.envs.skirmish.options import SkirmishOptions
from training.envs.skirmish.scenario import MAP_SIZE, Terrain

MOVES = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0))  # actions 2..5 as (dx, dy)
# The cells shown around an agent, in lengths of a move.
AROUND = ((0, 2), (0, -2), (2, 0), (-2, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
OUT_OF_BOUNDS = 1.0  # shown of cells off the map, as pathing and as height
_SIDE = MAP_SIZE + 2  # the grids have a border, which stands for all that lies off the map


class Ground:
    """Looks up cells for agents at x, y [n, B] float32."""

    def __init__(self, terrain: Terrain, options: SkirmishOptions, device: torch.device) -> None:
        def grid(cells: npt.NDArray[np.float64], border: float) -> Tensor:
            bordered = np.pad(cells, 1, constant_values=border).reshape(-1)
            return torch.as_tensor(bordered, dtype=torch.float32, device=device)

        pathable = terrain.pathable.astype(np.float64)
        heights = height_bytes(terrain) / 255
        self._pathable = grid(pathable, 0.0) > 0
        # SMAC looks at half the move's length.
        moves = torch.tensor(MOVES, device=device) * (options.move_amount / 2)
        self._half_x, self._half_y = moves[:, 0, None], moves[:, 1, None]
        here = torch.tensor((*AROUND, (0, 0)), device=device) * int(options.move_amount)
        self._around_x, self._around_y = here[:, 0, None], here[:, 1, None]
        self._pathing = grid(pathable, OUT_OF_BOUNDS) if options.obs_pathing_grid else None
        self._heights = grid(heights, OUT_OF_BOUNDS) if options.obs_terrain_height else None

    def can_move(self, x: Tensor, y: Tensor) -> Tensor:
        """[n, 4, B] bool."""
        # int() truncates toward zero, as SMAC's does: just west of the map's edge is cell 0.
        column = (x[:, None] + self._half_x).to(torch.int64)
        row = (y[:, None] + self._half_y).to(torch.int64)
        return self._pathable[_index(column, row)]

    def around(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The 8 pathing values and the 9 heights around, the last its own: [n, 8 and 9, B] float32
        as far as the options ask for them."""
        if self._pathing is None and self._heights is None:
            return []
        cell = _index(
            x.to(torch.int64)[:, None] + self._around_x, y.to(torch.int64)[:, None] + self._around_y
        )
        shown = [] if self._pathing is None else [self._pathing[cell[:, : len(AROUND)]]]
        return shown if self._heights is None else [*shown, self._heights[cell]]


def height_bytes(terrain: Terrain) -> npt.NDArray[np.float64]:
    """[32, 32] heights by (x, y) as whole numbers of 0 to 255, as the game's API gives them.

    Level 1 lies at a height of 8, every level 2 higher, and the void at 0.
    """
    z = np.where(terrain.level > 0, 8.0 + 2.0 * (terrain.level.astype(np.float64) - 1.0), 0.0)
    rounded: npt.NDArray[np.float64] = np.rint((z + 100.0) * 255.0 / 200.0)
    return rounded


def _index(column: Tensor, row: Tensor) -> Tensor:
    """The place of a cell in a bordered grid; all cells off the map are its border."""
    return (column.clamp(-1, MAP_SIZE) + 1) * _SIDE + row.clamp(-1, MAP_SIZE) + 1
