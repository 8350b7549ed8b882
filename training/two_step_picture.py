"""The two-step game's learned values as a picture, with the paper's beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from training.curve import INK, MUTED, WIN
from training.two_step_study import PAPER, STATES, Table, spell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

LOWEST, HIGHEST = -2.0, 8.0  # of all values, learned or true; one scale for all tables
DARK = 5.0  # values from here on have their number in white


def draw_tables(learned: Mapping[str, Mapping[str, Table]], path: Path) -> None:
    """One row of heat maps for each algorithm: three learned tables, then the paper's three.

    Args:
        learned: algorithm -> state -> values; rows are the first agent's action.
        path: where the PNG goes; it is replaced whole.
    """
    # Imported here: it takes a second that printing the tables can do without.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colors = LinearSegmentedColormap.from_list("values", ["#ffffff", WIN])
    figure = Figure(figsize=(9.6, 1.9 * len(learned) + 0.4), dpi=150, layout="constrained")
    sides = figure.subfigures(1, 2, squeeze=False, wspace=0.06)[0]
    for side, title in zip(sides, ("learned here", "in the paper"), strict=True):
        side.suptitle(title, fontsize=11, color=INK, fontweight="bold")
        side.supxlabel("rows: first agent, columns: second", fontsize=8, color=MUTED)
        grid = side.subplots(len(learned), len(STATES), squeeze=False)
        for row, algo in zip(grid, learned, strict=True):
            tables = learned[algo] if side is sides[0] else PAPER[algo]
            for axes, state in zip(row, STATES, strict=True):
                _draw_table(axes, tables[state], colors)
                axes.set_title(f"state {state}", fontsize=8, color=MUTED)
            row[0].set_ylabel(algo.upper(), color=INK, fontsize=10)
    aside = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure)
    figure.savefig(aside, format="png")
    aside.replace(path)


def _draw_table(axes: Axes, table: Table, colors: Colormap) -> None:
    axes.imshow(table, cmap=colors, vmin=LOWEST, vmax=HIGHEST)
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            ink = "white" if value >= DARK else INK
            axes.text(column, row, spell(value), ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks((0, 1), ("A", "B"))
    axes.set_yticks((0, 1), ("A", "B"))
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
