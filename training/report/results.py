"""Runs read from their folders, grouped by map and variant."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.config import ConfigError, TrainConfig
from training.envs import map_label
from training.experiment.collect import software_of
from training.experiment.command import shortest_command
from training.experiment.scripted import ScriptedConfig
from training.experiment.standing import HARMLESS, is_test, load_settings
from training.metrics import read_metrics
from training.report.statistics import Curve, final_win_rate
from training.run_folder import RunFolder

NAMES = {
    "qmix": "QMIX",
    "qmix_ns": "QMIX-NS",
    "qmix_lin": "QMIX-Lin",
    "vdn": "VDN",
    "vdn_s": "VDN-S",
    "iql": "IQL",
    "coma": "COMA",
    "heuristic": "SMAC's heuristic",
    "closest": "closest enemy",
    "random": "random",
}
"""What variants are called for readers, in the order in which they are listed."""
DIGITS = 12  # of a hash, for readers


class ReportError(ValueError):
    """The runs cannot be compared as they are; the message names folder and cure."""


@dataclass(frozen=True)
class RunResult:
    """What one run has to show."""

    path: Path
    map: str
    variant: str
    seed: int
    config: TrainConfig | ScriptedConfig
    curve: Curve
    seconds: float
    """Wall-clock of the whole run."""
    interval: tuple[float, float]
    """95 % interval of the last test's win rate, over its battles."""
    software: dict[str, str]

    @property
    def learns(self) -> bool:
        return isinstance(self.config, TrainConfig)

    @property
    def t_max(self) -> int:
        return self.config.stop.t_max if isinstance(self.config, TrainConfig) else 0

    @property
    def is_finished(self) -> bool:
        return bool(self.curve.t_env) and self.curve.t_env[-1] >= self.t_max

    @property
    def final(self) -> float:
        return final_win_rate(self.curve)

    @property
    def command(self) -> str:
        return " ".join(["python", "-m", *shortest_command(self.config)])

    @property
    def settings_sha256(self) -> str:
        """Hash of the settings but for the seed and what changes no result: the same for all runs
        of one curve."""
        values = _what_counts(self.config)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Group:
    """The finished runs of one variant on one map, by seed."""

    map: str
    variant: str
    runs: tuple[RunResult, ...]

    @property
    def label(self) -> str:
        return NAMES.get(self.variant, self.variant)

    @property
    def learns(self) -> bool:
        return self.runs[0].learns

    @property
    def curves(self) -> list[Curve]:
        return [run.curve for run in self.runs]

    @property
    def finals(self) -> list[float]:
        return [run.final for run in self.runs]


def find_runs(paths: Iterable[Path]) -> list[RunResult]:
    """The runs in these folders, which are runs or hold some.

    Raises:
        ReportError: a folder is not there or holds no run, or one's files cannot be read.
    """
    results = []
    for path in paths:
        folders = [path] if RunFolder(path).config.is_file() else sorted(path.glob("*/"))
        found = [read_run(RunFolder(f)) for f in folders if RunFolder(f).config.is_file()]
        if not found:
            raise ReportError(f"{path}: no run here")
        results += found
    return results


def read_run(folder: RunFolder) -> RunResult:
    """Raises: ReportError: its settings or metrics cannot be read."""
    try:
        config = load_settings(folder.config)
        rows = read_metrics(folder.metrics)
    except (ConfigError, json.JSONDecodeError) as error:
        raise ReportError(f"{folder.path}: {error}") from None
    tests = sorted((row for row in rows if is_test(row)), key=lambda row: int(row["t_env"]))
    if isinstance(config, TrainConfig):
        task = config.task
        map_name, seed, usual = task.map_name, task.seed, str(task.algo)
    else:
        map_name, seed, usual = config.map_name, config.seed, config.policy
    label = map_label(map_name)
    return RunResult(
        path=folder.path,
        map=label,
        variant=_variant(folder.path.name, label, seed) or usual,
        seed=seed,
        config=config,
        curve=Curve(
            tuple(row["t_env"] for row in tests),
            tuple(row["test_battle_won_mean"] for row in tests),
            tuple(row["seconds"] for row in tests),
        ),
        seconds=rows[-1]["seconds"] if rows else 0.0,
        interval=tuple(tests[-1]["test_battle_won_ci95"]) if tests else (0.0, 1.0),
        software=software_of(folder),
    )


def _variant(name: str, map_name: str, seed: int) -> str:
    """From a folder's name of the form <map>-<variant>-<seed>; empty if it has another."""
    head, tail = f"{map_name}-", f"-{seed}"
    fits = name.startswith(head) and name.endswith(tail) and len(name) > len(head + tail)
    variant = name[len(head) : -len(tail)] if fits else ""
    return variant if "-" not in variant else ""


def group_runs(results: Sequence[RunResult]) -> list[Group]:
    """Finished runs by map, the smaller maps first, and by variant.

    Raises:
        ReportError: a seed is there twice, or the settings of two runs of a group differ.
    """
    members: dict[tuple[str, str], list[RunResult]] = {}
    for result in results:
        if result.is_finished:
            members.setdefault((result.map, result.variant), []).append(result)
    groups = []
    for (map_name, variant), runs in sorted(members.items(), key=lambda item: _place(*item[0])):
        runs.sort(key=lambda run: run.seed)
        _check(runs)
        groups.append(Group(map_name, variant, tuple(runs)))
    return groups


def _place(map_name: str, variant: str) -> tuple[int, str, int, str]:
    names = list(NAMES)
    rank = names.index(variant) if variant in names else len(names)
    return len(map_name), map_name, rank, variant


def _check(runs: Sequence[RunResult]) -> None:
    first = runs[0]
    for before, run in itertools.pairwise(runs):
        if before.seed == run.seed:
            raise ReportError(f"{before.path} and {run.path} are runs of one variant and seed")
        old, new = _what_counts(first.config), _what_counts(run.config)
        if old != new:
            differing = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
            raise ReportError(
                f"{first.path} and {run.path} differ in more than the seed "
                f"({', '.join(differing)}): give them names of their own, <map>-<variant>-<seed>"
            )


def _what_counts(config: TrainConfig | ScriptedConfig) -> dict[str, object]:
    """Settings that all runs of a curve share; its length is among them."""
    leave = {"seed", "minutes", "until_win_rate", *HARMLESS}
    return {name: value for name, value in config.as_dict().items() if name not in leave}
