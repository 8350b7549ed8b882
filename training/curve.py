"""The learning curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.metrics import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
WIN, CONFIRMED, RETURN = "#2563eb", "#0f766e", "#d97706"


def draw_curve(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw the greedy win rate with its 95 % interval, and the return, over environment steps.

    Args:
        rows: of metrics.jsonl; those of tests carry the win rates.
        path: where the PNG goes; it is replaced whole.
    """
    # Imported here: it takes a second that a run's first battles can do without.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.4), dpi=150, layout="constrained")
    wins, returns = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_win_rate(wins, rows)
    _draw_return(returns, rows)
    wins.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    aside = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure)
    figure.savefig(aside, format="png")
    aside.replace(path)


def _draw_win_rate(axes: Axes, rows: Sequence[Row]) -> None:
    tests = [row for row in rows if "test_battle_won_mean" in row]
    steps = [row["t_env"] for row in tests]
    low, high = ([100 * row["test_battle_won_ci95"][i] for row in tests] for i in (0, 1))
    axes.fill_between(steps, low, high, color=WIN, alpha=0.15, linewidth=0)
    rate = [100 * row["test_battle_won_mean"] for row in tests]
    axes.plot(steps, rate, color=WIN, linewidth=1.8, label="greedy test, 95 % interval")
    confirmed = [row for row in tests if "confirm_battle_won_mean" in row]
    if confirmed:
        centre = [100 * row["confirm_battle_won_mean"] for row in confirmed]
        ends = [[100 * row["confirm_battle_won_ci95"][i] for row in confirmed] for i in (0, 1)]
        bars = [
            [c - low for c, low in zip(centre, ends[0], strict=True)],
            [high - c for c, high in zip(centre, ends[1], strict=True)],
        ]
        axes.errorbar(
            [row["t_env"] for row in confirmed],
            centre,
            yerr=[[max(0.0, x) for x in side] for side in bars],
            fmt="o",
            markersize=3.5,
            linewidth=1,
            color=CONFIRMED,
            label="confirmed on fresh battles",
        )
    axes.set_ylim(-2, 102)
    axes.set_ylabel("battles won (%)", color=INK)
    dress(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=INK)


def _draw_return(axes: Axes, rows: Sequence[Row]) -> None:
    for name, label, color, width in (
        ("test_return_mean", "greedy test", RETURN, 1.6),
        ("return_mean", "while exploring", MUTED, 1.0),
    ):
        points = [(row["t_env"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=color, linewidth=width)
    axes.set_ylabel("return", color=INK)
    axes.set_xlabel("environment steps", color=INK)
    axes.xaxis.set_major_formatter(spell_steps)
    dress(axes)
    if axes.has_data():
        axes.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=INK)


def dress(axes: Axes) -> None:
    """A quiet grid and no frame."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def spell_steps(steps: float, _: Any = None) -> str:
    """Environment steps for an axis or a table: 20 k, 1.5 M."""
    if steps >= 1_000_000:
        return f"{steps / 1e6:g} M"
    return f"{steps / 1e3:g} k" if steps >= 1_000 else f"{steps:g}"
