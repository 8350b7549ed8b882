"""`python -m training.demo` (or `make demo`): the whole path on one map, in about twelve minutes.

Trains QMIX from scratch, exports the agent network alone, starts the step service, and lets units
that share nothing win battles over one gRPC stream each. Every stage is the command that a user
would type; it is printed before it runs.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from training.envs import map_label
from training.own_server import ServerError, own_server, server_command


class DemoError(RuntimeError):
    """A stage failed; its own words are on the screen."""


@dataclass(frozen=True)
class Command:
    """Train, export, serve, and win over the wire."""

    map_name: str = "3s5z"
    minutes: float = 10.0
    """Of training, at most."""
    until_win_rate: float = 0.9
    """Training ends once this share of greedy battles is won."""
    episodes: int = 100
    """Battles of each row of the table."""
    seed: int = 1
    runs_dir: Path = Path("runs")


def main(command: Command) -> None:
    console = Console()
    name = map_label(command.map_name)
    run = _free_name(command.runs_dir, f"demo-{name}")
    with tempfile.TemporaryDirectory(prefix="unmix-demo-") as scratch:
        _stage(console, "1  train QMIX from scratch")
        _run("training.train", "--map", command.map_name, "--name", run, "--seed", command.seed,
             "--minutes", command.minutes, "--until-win-rate", command.until_win_rate,
             "--runs-dir", command.runs_dir)  # fmt: skip
        _stage(console, "2  export the agent network alone")
        _run("training.export", command.runs_dir / run, "--name", name,
             "--models", scratch, "--episodes", 200)  # fmt: skip
        _stage(console, "3  serve it; every unit of every battle opens its own gRPC stream")
        fresh = Path(scratch) / name / "1"
        shipped = Path("models") / name / "1"
        policies = {"SMAC's heuristic": "heuristic", "fresh agent": str(fresh)}
        if shipped.is_dir():
            policies["shipped agent"] = str(shipped)
        rows = {who: _evaluate(command, policy) for who, policy in policies.items()}
        command_line = server_command(Path(scratch))
        _show(command_line)
        with own_server(command_line) as address:
            rows["fresh agent over gRPC"] = _evaluate(command, f"{address}/{name}")
    console.print(_table(rows, command))
    same = rows["fresh agent"]["actions_sha256"] == rows["fresh agent over gRPC"]["actions_sha256"]
    console.print(
        "Over the wire the agents took the very same actions."
        if same
        else "Over the wire the agents took other actions somewhere: rounding of a near tie."
    )
    console.print(f"The learning curve is {command.runs_dir / run / 'curve.png'}")


def _free_name(runs_dir: Path, name: str) -> str:
    taken = [name, *(f"{name}-{i}" for i in range(2, 1000))]
    return next(candidate for candidate in taken if not (runs_dir / candidate).exists())


def _stage(console: Console, title: str) -> None:
    console.rule(f"[bold]{title}", align="left")


def _argv(module: str, *arguments: object) -> list[str]:
    argv = [sys.executable, "-m", module, *map(str, arguments)]
    _show(argv)
    return argv


def _show(argv: list[str]) -> None:
    print("$ " + shlex.join(["python", *argv[1:]]), flush=True)


def _run(module: str, *arguments: object) -> None:
    code = subprocess.run(_argv(module, *arguments), check=False).returncode
    if code != 0:
        raise DemoError(f"{module} ended with exit code {code}")


def _evaluate(command: Command, policy: str) -> dict[str, Any]:
    """Battles of a seed that training does not use."""
    argv = _argv("training.evaluate", "--map", command.map_name, "--policy", policy,
                 "--episodes", command.episodes, "--seed", 2026, "--json")  # fmt: skip
    done = subprocess.run(argv, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise DemoError(f"the evaluation of {policy} ended with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _table(rows: dict[str, dict[str, Any]], command: Command) -> Table:
    table = Table(title=f"{command.map_name}, {command.episodes} battles each, the same for all")
    for heading in ("player", "wins", "95 % interval", "return", "steps/s"):
        table.add_column(heading, justify="left" if heading == "player" else "right")
    for who, row in rows.items():
        low, high = row["win_rate_ci95"]
        table.add_row(
            who,
            f"{row['win_rate']:.0%}",
            f"{low:.0%} to {high:.0%}",
            f"{row['return_mean']:.2f}",
            f"{row['steps_per_second']:,.0f}",
        )
    return table


if __name__ == "__main__":
    try:
        main(tyro.cli(Command, prog="python -m training.demo", description=Command.__doc__))
    except (DemoError, ServerError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
