"""`python -m benchmarks.simulator`: steps per second of random play, observations included.

On 3s5z, JaxMARL's SMAX plays beside ours: round by round in turn, with the same threads.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.peers import SMAX_MAP, Peer, PeerUnavailableError, start_smax
from training.allocator import keep_freed_memory
from training.envs.skirmish.env import SkirmishEnv

OURS, SMAX = "skirmish", "smax"
COMPARED_AT = 64
ALWAYS_ENDING = 64
"""From about this many battles up, one of them ends in nearly every step."""


@dataclass(frozen=True)
class Command:
    """Time the simulator: whole steps with observations, state, masks, reward and resets."""

    maps: tuple[str, ...] = ("3m", "3s5z")
    parallel: tuple[int, ...] = (1, 16, 64, 256, 1024, 4096)
    """Battles side by side."""
    threads: int = 0
    """Torch threads; 0 tries one and as many as there are cores."""
    device: str = "cpu"
    compile: bool = True
    """Compile the simulator; how long that took is in the JSON."""
    seconds: float = 1.0
    """Of play per round."""
    rounds: int = 3
    """Rounds per figure; the median counts."""
    peers: bool = True
    """Measure SMAX beside ours on 3s5z; installs it, once, in an environment of its own."""
    peer_parallel: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    """SMAX's battles side by side."""
    peer_seconds: float = 1.0
    """Of SMAX's play per round."""
    json_path: Path = Path("benchmarks/results/simulator.json")


@dataclass(frozen=True)
class Figure:
    simulator: str
    map: str
    parallel: int
    threads: int
    device: str
    steps_per_second: float
    lowest: float
    highest: float
    startup_seconds: float


class Round(NamedTuple):
    steps_per_second: float
    startup_seconds: float
    """Until two steps are done, and with them whatever is compiled; not in the rate."""


@dataclass
class Results:
    figures: list[Figure] = field(default_factory=list)
    smax_unavailable: str | None = None
    """Why SMAX has no figures though they were asked for."""


def random_actions(avail_actions: torch.Tensor) -> torch.Tensor:
    """One available action of each agent, all alike; [E, A, U] -> [E, A]. 1 % of a step."""
    noise = torch.rand(avail_actions.shape, device=avail_actions.device)
    return noise.masked_fill_(~avail_actions, -1.0).argmax(2)


def steps_per_second(
    map_name: str, parallel: int, device: str, seconds: float, compile: bool = False
) -> Round:
    """Random play from the start of the battles on, each replaced when it ends.

    A round among many battles is over before the first of them ends. In a long run some battle
    would have ended in every step, so the replacing is done in every step all the same.
    """
    started = time.perf_counter()
    env = SkirmishEnv(map_name, parallel, device=device, compile=compile)
    observation = env.reset()
    for _ in range(2):
        observation = env.step(random_actions(observation.avail_actions)).observation
    _wait(env)
    startup = time.perf_counter() - started
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or steps < 4 * parallel:
        transition = env.step(random_actions(observation.avail_actions))
        observation = transition.observation
        ended = transition.terminated | transition.truncated
        if parallel >= ALWAYS_ENDING or bool(ended.any()):
            observation = env.reset(ended)
        steps += parallel
    _wait(env)
    return Round(steps / (time.perf_counter() - started), startup)


def _wait(env: SkirmishEnv) -> None:
    if env.device.type == "cuda":
        torch.cuda.synchronize()


def measure(command: Command) -> Results:
    cores = torch.get_num_threads()
    threads = (command.threads,) if command.threads else tuple(sorted({1, cores}))
    if command.device != "cpu":
        threads = (1,)
    results = Results()
    for n_threads in threads:
        torch.set_num_threads(n_threads)
        for map_name in command.maps:
            beside = command.peers and (map_name, n_threads) == (SMAX_MAP, threads[-1])
            if beside and command.device == "cpu":
                _measure_beside_smax(command, n_threads, results)
            else:
                _measure_map(command, map_name, n_threads, results, None)
    torch.set_num_threads(cores)
    return results


def _measure_beside_smax(command: Command, n_threads: int, results: Results) -> None:
    with ExitStack() as stack:
        smax = None
        try:
            smax = stack.enter_context(start_smax(n_threads, print))
        except PeerUnavailableError as error:
            results.smax_unavailable = str(error)
        _measure_map(command, SMAX_MAP, n_threads, results, smax)


def _measure_map(
    command: Command, map_name: str, n_threads: int, results: Results, smax: Peer | None
) -> None:
    """Every batch size once, then every one again: what drifts meets them all."""
    ours: dict[int, list[Round]] = {}
    theirs: dict[int, list[Round]] = {}
    for _ in range(command.rounds):
        for parallel in sorted({*command.parallel, *(command.peer_parallel if smax else ())}):
            if parallel in command.parallel:
                played = steps_per_second(
                    map_name, parallel, command.device, command.seconds, command.compile
                )
                ours.setdefault(parallel, []).append(played)
            if smax is not None and parallel in command.peer_parallel:
                try:
                    answer = smax.round(parallel, command.peer_seconds)
                except PeerUnavailableError as error:
                    results.smax_unavailable = str(error)
                    smax = None
                    theirs.clear()
                    continue
                played = Round(answer.steps_per_second, answer.startup_seconds)
                theirs.setdefault(parallel, []).append(played)
    for simulator, measured in ((OURS, ours), (SMAX, theirs)):
        for parallel, rounds in measured.items():
            rates = [played.steps_per_second for played in rounds]
            results.figures.append(
                Figure(
                    simulator,
                    map_name,
                    parallel,
                    n_threads,
                    command.device,
                    statistics.median(rates),
                    min(rates),
                    max(rates),
                    rounds[0].startup_seconds,  # the later ones find everything compiled
                )
            )


def main(command: Command) -> None:
    keep_freed_memory()  # as training does
    results = measure(command)
    _print(results.figures, command)
    _print_comparison(results)
    command.json_path.parent.mkdir(parents=True, exist_ok=True)
    command.json_path.write_text(json.dumps(asdict(results), indent=1) + "\n")


def _print(figures: list[Figure], command: Command) -> None:
    device = torch.cuda.get_device_name() if command.device == "cuda" else platform.machine()
    table = Table(title=f"Random legal play, env steps/s (median of {command.rounds}), {device}")
    sizes = sorted({f.parallel for f in figures})
    for heading in ("simulator", "map", "threads"):
        table.add_column(heading, justify="right" if heading == "threads" else "left")
    for parallel in sizes:
        table.add_column(f"{parallel:,}", justify="right")
    for key in sorted({(f.simulator, f.map, f.threads) for f in figures}):
        row = {f.parallel: f for f in figures if (f.simulator, f.map, f.threads) == key}
        rates = [f"{row[p].steps_per_second:,.0f}" if p in row else "" for p in sizes]
        table.add_row(key[0], key[1], str(key[2]), *rates)
    Console().print(table)


def _print_comparison(results: Results) -> None:
    """Ours and SMAX at the same size, at the best size of each, and ours by theirs.

    Of ours the better of one thread and all; SMAX had all.
    """
    if results.smax_unavailable is not None:
        print(f"{SMAX}: not available: {results.smax_unavailable}")
    theirs = [f for f in results.figures if f.simulator == SMAX]
    if not theirs:
        return
    where = theirs[0].map, theirs[0].threads
    ours = [f for f in results.figures if (f.simulator, f.map) == (OURS, where[0])]
    table = Table(title=f"Beside JaxMARL's SMAX: {where[0]}, up to {where[1]} threads, env steps/s")
    for heading in ("simulator", f"{COMPARED_AT} battles", "best", "battles at best", "startup s"):
        table.add_column(heading, justify="left" if heading == "simulator" else "right")
    for row in (ours, theirs):
        starts = [f.startup_seconds for f in row]
        table.add_row(
            row[0].simulator,
            _shown(_at(row, COMPARED_AT), ",.0f"),
            f"{_best(row).steps_per_second:,.0f}",
            f"{_best(row).parallel:,}",
            f"{min(starts):.1f} to {max(starts):.1f}",
        )
    ours_at, theirs_at = _at(ours, COMPARED_AT), _at(theirs, COMPARED_AT)
    at = ours_at / theirs_at if ours_at and theirs_at else None
    bests = _best(ours).steps_per_second / _best(theirs).steps_per_second
    table.add_row("ratio", _shown(at, ".2f"), f"{bests:.2f}")
    Console().print(table)


def _best(figures: Sequence[Figure]) -> Figure:
    return max(figures, key=lambda f: f.steps_per_second)


def _at(figures: Sequence[Figure], parallel: int) -> float | None:
    return max((f.steps_per_second for f in figures if f.parallel == parallel), default=None)


def _shown(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


if __name__ == "__main__":
    main(tyro.cli(Command, prog="python -m benchmarks.simulator", description=Command.__doc__))
