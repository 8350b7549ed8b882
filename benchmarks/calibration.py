"""`python -m benchmarks.calibration`: Skirmish beside what is published of the real game.

No constant of the simulator is fitted to these numbers; FIDELITY.md says what is known, what was
chosen, and which mechanism moves which number.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from training.evaluate import Command as Evaluate
from training.evaluate import Evaluation, run

Play = Callable[[str, str, int], Evaluation]
"""Map, policy, number of battles -> how it fared."""
HEURISTIC_ICML_2018 = {"3m": 0.76, "5m": 0.60, "8m": 0.95, "2s3z": 0.82, "3s5z": 0.45}
"""Win rates of the heuristic in the real game: Rashid et al., ICML 2018, Table 7."""
RANDOM_8M = (1.772, 0.447, 60)
"""Mean and standard deviation of 60 published episode returns of random play on 8m."""
RANDOM_3S5Z = (5.02, 56)
"""Return and length of the one published episode of random play on 3s5z."""


@dataclass(frozen=True)
class Command:
    """Play the published settings in the simulator and print both, side by side."""

    episodes: int = 200
    """Battles for each heuristic and map; random play takes five times as many."""
    seed: int = 1
    json_path: Path = Path("benchmarks/results/calibration.json")
    """Where the figures are written as JSON."""


def main(command: Command) -> None:
    torch.set_num_threads(1)
    console = Console()
    results: list[Evaluation] = []

    def play(map_name: str, policy: str, episodes: int) -> Evaluation:
        result = run(Evaluate(policy, map_name, episodes, command.seed))
        results.append(result)
        return result

    console.print(_heuristics(play, command.episodes))
    console.print(_random(play, 5 * command.episodes))
    command.json_path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(result) for result in results]
    command.json_path.write_text(json.dumps(rows, indent=1) + "\n")
    console.print(f"written to {command.json_path}")


def _heuristics(play: Play, episodes: int) -> Table:
    table = Table(title=f"win rate of scripted players, {episodes} battles each, %")
    for heading in (
        "map",
        "real game",
        "SMAC's heuristic",
        "95 %",
        "off by",
        "closest, legal",
        "95 %",
    ):
        table.add_column(heading, justify="right")
    off = []
    for map_name, published in HEURISTIC_ICML_2018.items():
        smac, closest = (play(map_name, p, episodes) for p in ("heuristic", "closest"))
        off.append(abs(smac.win_rate - published))
        table.add_row(
            map_name,
            f"{published:.0%}",
            f"{smac.win_rate:.0%}",
            _interval(smac),
            f"{smac.win_rate - published:+.0%}",
            f"{closest.win_rate:.0%}",
            _interval(closest),
        )
    table.caption = f"mean absolute difference {sum(off) / len(off):.1%}"
    return table


def _interval(result: Evaluation) -> str:
    low, high = result.win_rate_ci95
    return f"{low:.0%}-{high:.0%}"


def _random(play: Play, episodes: int) -> Table:
    table = Table(title=f"random legal play, {episodes} battles each")
    for heading in ("map", "", "return", "sd", "length", "kills"):
        table.add_column(heading, justify="right")
    mean, deviation, n = RANDOM_8M
    table.add_row("8m", f"real game, {n} episodes", f"{mean:.2f}", f"{deviation:.2f}", "", "0")
    _ours(table, play("8m", "random", episodes))
    value, length = RANDOM_3S5Z
    table.add_row("3s5z", "real game, 1 episode", f"{value:.2f}", "", f"{length}", "1")
    _ours(table, play("3s5z", "random", episodes))
    return table


def _ours(table: Table, ours: Evaluation) -> None:
    table.add_row(
        "",
        "Skirmish",
        f"{ours.return_mean:.2f}",
        f"{ours.return_std:.2f}",
        f"{ours.ep_length_mean:.1f}",
        f"{ours.dead_enemies_mean:.2f}",
    )


if __name__ == "__main__":
    main(tyro.cli(Command, prog="python -m benchmarks.calibration", description=Command.__doc__))
