"""The report's pictures: a learning curve for each map, and all maps together."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.curve import INK, MUTED, dress, spell_steps
from training.report.results import Group
from training.report.statistics import band, median
from training.report.tables import Table, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {
    "qmix": "#0072b2",
    "vdn": "#e69f00",
    "iql": "#009e73",
    "coma": "#d55e00",
    "qmix_ns": "#56b4e9",
    "qmix_lin": "#cc79a7",
    "vdn_s": "#8c510a",
    "heuristic": MUTED,
    "closest": MUTED,
    "random": MUTED,
}
"""After Okabe and Ito: told apart by the colour-blind, too."""
MORE_COLORS = ("#cc79a7", "#56b4e9", "#8c510a", "#999933", "#882255")
DASHES = ("-", "--", "-.", ":")


class Picture:
    """A drawing in the two forms that the report needs. The same numbers give the same bytes."""

    def __init__(self, figure: Figure, words: str) -> None:
        self._figure, self.words = figure, words

    def to_png(self) -> bytes:
        out = io.BytesIO()
        self._figure.savefig(out, format="png", metadata={"Software": None})
        return out.getvalue()

    def to_svg(self, name: str) -> str:
        """To be put into a page.

        Args:
            name: leads all ids in it, so that two drawings in a page do not meet.
        """
        import matplotlib

        out = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": "unmix", "svg.fonttype": "none"}):
            self._figure.savefig(out, format="svg", metadata={"Date": None})
        svg = out.getvalue()[out.getvalue().index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
        return re.sub(r"<svg ", '<svg aria-hidden="true" ', svg, count=1)


def draw_curves(groups: Sequence[Group]) -> Picture:
    """One map: median test win rate over environment steps, with the quartiles as a band."""
    figure = _new_figure(6.4, 4.0)
    axes = figure.subplots()
    for place, group in enumerate(groups):
        shown = band(group.curves)
        steps, rates = shown.t_env, (100 * q for q in (shown.low, shown.median, shown.high))
        low, middle, high = rates
        if not group.learns:
            axes.axhline(middle[0], color=MUTED, linewidth=1.4, linestyle=DASHES[1 + place % 3],
                         label=group.label)  # fmt: skip
            continue
        color = color_of(group.variant, place)
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
        axes.plot(steps, middle, color=color, linewidth=1.8, linestyle=DASHES[place // 7 % 4],
                  label=group.label)  # fmt: skip
    axes.set_ylim(-2, 102)
    axes.set_xlim(left=0)
    axes.set_ylabel("test win rate (%)", color=INK)
    axes.set_xlabel("environment steps", color=INK)
    axes.xaxis.set_major_formatter(spell_steps)
    axes.set_title(groups[0].map, loc="left", fontsize=11, color=INK, fontweight="bold")
    dress(axes)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0),
                labelcolor=INK)  # fmt: skip
    ends = (f"{group.label} {percent(median(group.finals))}" for group in groups)
    words = f"{groups[0].map}: median test win rate over environment steps, with quartiles. Final: "
    return Picture(figure, words + ", ".join(ends) + ".")


def draw_across_maps(table: Table) -> Picture:
    """Interquartile means over all maps with their intervals."""
    figure = _new_figure(6.4, 0.8 + 0.38 * len(table.data))
    axes = figure.subplots()
    for place, row in enumerate(table.data):
        variant, iqm, low, high = str(row[0]), *(100 * float(str(v)) if v is not None else None
                                                 for v in row[1:4])  # fmt: skip
        color = color_of(variant, place)
        if low is not None and high is not None:
            axes.barh(place, high - low, left=low, height=0.5, color=color, alpha=0.3)
        assert iqm is not None
        axes.plot([iqm, iqm], [place - 0.25, place + 0.25], color=color, linewidth=2.5)
    axes.set_yticks(range(len(table.rows)), [row[0] for row in table.rows])
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    axes.set_xlabel("interquartile mean of final win rates (%), 95 % interval", color=INK)
    dress(axes)
    ends = (f"{row[0]} {row[1]}" for row in table.rows)
    return Picture(figure, f"{table.title}: interquartile mean of final win rates. "
                   + ", ".join(ends) + ".")  # fmt: skip


def color_of(variant: str, place: int) -> str:
    return COLORS.get(variant, MORE_COLORS[place % len(MORE_COLORS)])


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
