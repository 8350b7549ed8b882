"""The report's tables: each once for readers, as text, and once as data, for a CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.curve import spell_steps
from training.progress import spell_seconds
from training.report.reference import Reference
from training.report.results import DIGITS, NAMES, Group, RunResult
from training.report.statistics import (
    band,
    first_reach,
    interquartile_mean,
    iqm_interval,
    median,
)

GOALS = (0.5, 0.8, 0.95)
NONE = "–"


@dataclass(frozen=True)
class Table:
    """Rows for readers, and the numbers behind them."""

    name: str
    """Its file's stem."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    data_columns: tuple[str, ...]
    data: tuple[tuple[object, ...], ...]

    def to_csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([self.data_columns, *([_plain(v) for v in row] for row in self.data)])
        return out.getvalue()

    def to_markdown(self) -> str:
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _plain(value: object) -> object:
    """Empty for what there is not; floats to the last digit that means something."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def percent(value: float) -> str:
    return f"{100 * value:.1f}\u00a0%"  # a space that does not break


def span(low: float, high: float) -> str:
    return f"{100 * low:.1f}\u00a0–\u00a0{100 * high:.1f}"


def final_table(groups: Sequence[Group]) -> Table:
    """Final win rates of each variant on each map."""
    rows, data = [], []
    for group in groups:
        finals = group.finals
        low, middle, high = (float(q) for q in np.quantile(finals, (0.25, 0.5, 0.75)))
        iqm = float(interquartile_mean(finals))
        interval = iqm_interval([finals]) if group.learns else group.runs[0].interval
        seconds = median([run.seconds for run in group.runs])
        steps = group.runs[0].t_max
        rows.append(
            (
                group.map,
                group.label,
                percent(middle),
                span(low, high) if group.learns else NONE,
                percent(iqm),
                span(*interval) if interval else NONE,
                str(len(finals)) if group.learns else NONE,
                spell_steps(steps) if group.learns else NONE,
                spell_seconds(seconds) if group.learns else NONE,
            )
        )
        ends = interval or (None, None)
        data.append((group.map, group.variant, middle, low, high, iqm, *ends,
                     len(finals), steps, seconds))  # fmt: skip
    return Table(
        "final",
        "Final test win rate",
        ("map", "algorithm", "median", "25 – 75 %", "IQM", "95 % interval", "seeds", "steps",
         "wall-clock of a run"),
        tuple(rows),
        ("map", "variant", "median", "q25", "q75", "iqm", "ci95_low", "ci95_high", "seeds",
         "env_steps", "seconds_median"),
        tuple(data),
    )  # fmt: skip


def across_maps_table(groups: Sequence[Group]) -> Table | None:
    """Final win rates over all maps, of the variants that played them all; None for one map."""
    maps = list(dict.fromkeys(group.map for group in groups))
    if len(maps) < 2:
        return None
    rows, data = [], []
    for variant in sorted({g.variant for g in groups}, key=_rank):
        strata = [group.finals for group in groups if group.variant == variant]
        if len(strata) < len(maps):
            continue
        finals = [final for stratum in strata for final in stratum]
        iqm, middle = float(interquartile_mean(finals)), median(finals)
        interval = iqm_interval(strata)
        rows.append(
            (
                NAMES.get(variant, variant),
                percent(iqm),
                span(*interval) if interval else NONE,
                percent(middle),
                str(len(finals)),
            )
        )
        data.append((variant, iqm, *(interval or (None, None)), middle, len(finals)))
    if not rows:
        return None
    return Table(
        "across-maps",
        f"Over all {len(maps)} maps",
        ("algorithm", "IQM", "95 % interval", "median", "runs"),
        tuple(rows),
        ("variant", "iqm", "ci95_low", "ci95_high", "median", "runs"),
        tuple(data),
    )


def _rank(variant: str) -> tuple[int, str]:
    names = list(NAMES)
    return (names.index(variant) if variant in names else len(names)), variant


def times_table(groups: Sequence[Group]) -> Table:
    """How long it took to a win rate, in steps and on the clock: medians over seeds."""
    rows, data = [], []
    for group in (group for group in groups if group.learns):
        cells = []
        for goal in GOALS:
            reached = [first_reach(curve, goal) for curve in group.curves]
            steps, seconds = (median([r[i] for r in reached]) for i in (0, 1))
            arrived = sum(math.isfinite(r[0]) for r in reached)
            share = f"({arrived} of {len(reached)})"
            known = math.isfinite(steps)
            took = f"{spell_steps(round(steps, -3))}, {spell_seconds(seconds)}" if known else NONE
            cells.append(took if arrived == len(reached) else f"{took} {share}")
            data.append((group.map, group.variant, goal, steps, seconds, arrived, len(reached)))
        rows.append((group.map, group.label, *cells))
    return Table(
        "times",
        "Steps and wall-clock to a win rate",
        ("map", "algorithm", *(f"to {goal:.0%}" for goal in GOALS)),
        tuple(rows),
        ("map", "variant", "win_rate", "env_steps", "seconds", "seeds_there", "seeds"),
        tuple(data),
    )


def published_table(groups: Sequence[Group], references: Sequence[Reference]) -> Table:
    """Ours beside what is published of the maps that are shown."""
    maps = {group.map for group in groups}
    ours = {(group.map, group.variant): median(group.finals) for group in groups}
    rows, data = [], []
    for reference in references:
        for map_name, algos in ((m, a) for m, a in reference.maps.items() if m in maps):
            for variant, published in algos.items():
                mine = ours.get((map_name, variant))
                theirs = None if published.percent is None else published.percent / 100
                off = None if mine is None or theirs is None else mine - theirs
                words = published.says if theirs is None else f"{published.percent:g}\u00a0%"
                words += f" ({published.says})" if theirs is not None and published.says else ""
                rows.append(
                    (
                        reference.title,
                        map_name,
                        NAMES.get(variant, variant),
                        NONE if mine is None else percent(mine),
                        words,
                        NONE if off is None else f"{100 * off:+.1f}",
                        published.source,
                    )
                )
                data.append((reference.title, map_name, variant, mine, theirs, off,
                             published.says, published.source))  # fmt: skip
    return Table(
        "published",
        "Beside published numbers",
        ("publication", "map", "algorithm", "here (median)", "published", "points", "source"),
        tuple(rows),
        ("publication", "map", "variant", "ours", "published", "difference", "says", "source"),
        tuple(data),
    )


def runs_table(groups: Sequence[Group]) -> Table:
    """Every run: its outcome, what it ran on, and the command that repeats it."""
    runs = [(group, run) for group in groups for run in group.runs]
    return Table(
        "runs",
        "The runs",
        ("map", "algorithm", "seed", "final", "wall-clock", "settings", "software", "command"),
        tuple(
            (
                group.map,
                group.label,
                str(run.seed),
                percent(run.final),
                spell_seconds(run.seconds),
                run.settings_sha256[:DIGITS],
                software(run) or NONE,
                run.command,
            )
            for group, run in runs
        ),
        ("map", "variant", "seed", "final", "seconds", "settings_sha256", "software", "command"),
        tuple(
            (group.map, group.variant, run.seed, run.final, run.seconds, run.settings_sha256,
             software(run), run.command)
            for group, run in runs
        ),
    )  # fmt: skip


def software(run: RunResult) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(run.software.items()))


def curves_table(groups: Sequence[Group]) -> Table:
    """The numbers behind the figures; for a file only."""
    data: list[tuple[object, ...]] = []
    for group in groups:
        shown = band(group.curves)
        columns = (shown.t_env, shown.low, shown.median, shown.high)
        for t, *quartiles in zip(*(column.tolist() for column in columns), strict=True):
            data.append((group.map, group.variant, int(t), *quartiles))
    names = ("map", "variant", "t_env", "q25", "median", "q75")
    return Table("curves", "The curves", (), (), names, tuple(data))
