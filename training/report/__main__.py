"""Report what runs have shown: `python -m training.report runs/paper --out report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from training.config import ConfigError
from training.experiment.plan import load_experiment
from training.experiment.scripted import write_whole
from training.report.figures import Picture, draw_across_maps, draw_curves
from training.report.page import Content, to_html, to_markdown
from training.report.reference import load_reference
from training.report.results import Group, ReportError, RunResult, find_runs, group_runs
from training.report.tables import (
    Table,
    across_maps_table,
    curves_table,
    final_table,
    published_table,
    runs_table,
    times_table,
)

FEW_SEEDS = 10
METHODS = (
    "A test is a number of battles (`test_nepisode` in a run's config.yaml) that the agents play "
    "greedily and never learn from. Curves, finals and times use these tests alone, not the fresh "
    "battles that confirm a good one, and nothing is smoothed.",
    "Curves: the median over seeds, and the band between the quartiles. Between two tests of a run "
    "its curve is a straight line; steps at which a seed has no test before or after are left out.",
    "The final win rate of a run is the mean of its tests in the last tenth of its steps. It is "
    "never the best test. Median, quartiles and IQM are over the runs' finals.",
    "IQM: the interquartile mean, without the lowest and highest quarter of the runs (each "
    "rounded down; of three runs it is their mean). Its 95 % interval: percentiles of 10,000 "
    "stratified bootstrap resamples, seeds drawn anew within each map (Agarwal et al., NeurIPS "
    "2021). Of a policy that does not learn: Wilson's interval over its battles.",
    "Time to a win rate: the first single test that reached it, the median over seeds; a seed that "
    "never got there counts as later than all others, and how many got there stands beside it. The "
    "clock is that of the run itself, with tests and all else in it, on cores that other runs may "
    "have shared.",
    "A settings hash covers all settings but the seed and those that change no result.",
)


@dataclass(frozen=True)
class Command:
    """Write a report on finished runs: a page, the same as Markdown, pictures and tables as files.

    The same metrics give the same files to the byte. Runs are told apart by their folders' names,
    <map>-<variant>-<seed>, as training.experiment makes them; a run called otherwise counts as a
    variant by its algorithm.

    Example: python -m training.report experiments/results --out report
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders of them."""
    out: Path
    """The folder to write to."""
    experiment: Path | None = None
    """Only the runs that this experiment's file names, under its title."""
    title: str = "What the runs have shown"
    reference: tuple[Path, ...] = ()
    """YAMLs of published numbers to show beside ours (docs/experiments.md)."""
    notes: Path | None = None
    """A text to put at the beginning: paragraphs, # headings, - lists, `code`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    command = tyro.cli(
        Command,
        prog="python -m training.report",
        description=Command.__doc__,
        args=arguments,
    )
    try:
        files = build(command)
        command.out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(command.out / name, content)
    except (ReportError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{command.out / 'report.html'}: {len(files)} files")
    return 0


def build(command: Command) -> dict[str, bytes]:
    """All files of the report by name.

    Raises:
        ReportError: the runs cannot be read or compared, or none is finished.
        ConfigError: the experiment's file is wrong.
        OSError: the notes cannot be read.
    """
    results, title = find_runs(command.runs), command.title
    if command.experiment is not None:
        experiment = load_experiment(command.experiment)
        names, title = {run.name for run in experiment.runs}, experiment.title
        results = [result for result in results if result.path.name in names]
    groups = group_runs(results)
    if not groups:
        raise ReportError("no run is finished: nothing to report yet")
    across = across_maps_table(groups)
    tables = [across, final_table(groups), times_table(groups)]
    if command.reference:
        references = [load_reference(path) for path in command.reference]
        tables.append(published_table(groups, references))
    shown = [table for table in (*tables, runs_table(groups)) if table is not None and table.rows]
    content = Content(
        title=title,
        warnings=warnings(groups, results),
        notes=command.notes.read_text(encoding="utf-8") if command.notes else "",
        pictures=draw(groups, across),
        tables=shown,
        methods=METHODS,
    )
    files = {"report.html": to_html(content), "report.md": to_markdown(content)}
    files |= {f"{table.name}.csv": table.to_csv() for table in (*shown, curves_table(groups))}
    pictures = {f"{name}.png": picture.to_png() for name, picture in content.pictures.items()}
    return {name: text.encode() for name, text in files.items()} | pictures


def draw(groups: Sequence[Group], across: Table | None) -> dict[str, Picture]:
    pictures = {}
    for map_name in dict.fromkeys(group.map for group in groups):
        pictures[map_name] = draw_curves([group for group in groups if group.map == map_name])
    return pictures | ({across.name: draw_across_maps(across)} if across is not None else {})


def warnings(groups: Sequence[Group], results: Sequence[RunResult]) -> list[str]:
    """What a reader should know before the numbers."""
    said = []
    seeds = [len(group.runs) for group in groups if group.learns]
    if seeds and min(seeds) < FEW_SEEDS:
        said.append(
            f"Few seeds: {_spell_range(min(seeds), max(seeds))} for each algorithm and map. "
            "Quartiles and intervals over so few runs are rough, intervals mostly too narrow: "
            "a difference between overlapping ones may be chance."
        )
    unfinished = [result for result in results if not result.is_finished]
    if unfinished:
        names = ", ".join(result.path.name for result in unfinished)
        said.append(f"Not finished, and left out: {names}.")
    return said


def _spell_range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


if __name__ == "__main__":
    sys.exit(main())
