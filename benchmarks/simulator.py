"""`python -m benchmarks.simulator`: steps per second of random play, observations included."""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from training.allocator import keep_freed_memory
from training.envs.skirmish.env import SkirmishEnv


@dataclass(frozen=True)
class Command:
    """Time the simulator: whole steps with observations, state, masks, reward and resets."""

    maps: tuple[str, ...] = ("3m", "3s5z")
    parallel: tuple[int, ...] = (1, 16, 64, 256, 1024, 4096)
    """Battles side by side."""
    threads: int = 0
    """Torch threads; 0 tries one and as many as there are cores."""
    device: str = "cpu"
    seconds: float = 1.0
    """Of play per round."""
    rounds: int = 3
    """Rounds per figure; the median counts."""
    json_path: Path = Path("benchmarks/results/simulator.json")


@dataclass(frozen=True)
class Figure:
    map: str
    parallel: int
    threads: int
    device: str
    steps_per_second: float
    lowest: float
    highest: float


def random_actions(avail_actions: torch.Tensor) -> torch.Tensor:
    """One available action of each agent, all alike; [E, A, U] -> [E, A]."""
    noise = torch.rand(avail_actions.shape, device=avail_actions.device)
    return noise.masked_fill_(~avail_actions, -1.0).argmax(2)


def steps_per_second(map_name: str, parallel: int, device: str, seconds: float) -> float:
    """Random play from the start of the battles on, each replaced when it ends."""
    env = SkirmishEnv(map_name, parallel, device=device)
    observation = env.reset()
    for _ in range(2):
        observation = env.step(random_actions(observation.avail_actions)).observation
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or steps < 4 * parallel:
        transition = env.step(random_actions(observation.avail_actions))
        observation = transition.observation
        ended = transition.terminated | transition.truncated
        if bool(ended.any()):
            observation = env.reset(ended)
        steps += parallel
    if env.device.type == "cuda":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - started)


def main(command: Command) -> None:
    keep_freed_memory()  # as training does
    cores = torch.get_num_threads()
    threads = (command.threads,) if command.threads else tuple(sorted({1, cores}))
    figures = []
    for n_threads in threads if command.device == "cpu" else (1,):
        torch.set_num_threads(n_threads)
        for map_name in command.maps:
            for parallel in command.parallel:
                rates = [
                    steps_per_second(map_name, parallel, command.device, command.seconds)
                    for _ in range(command.rounds)
                ]
                figures.append(
                    Figure(
                        map_name,
                        parallel,
                        n_threads,
                        command.device,
                        statistics.median(rates),
                        min(rates),
                        max(rates),
                    )
                )
    _print(figures, command)
    command.json_path.parent.mkdir(parents=True, exist_ok=True)
    command.json_path.write_text(json.dumps([asdict(f) for f in figures], indent=1) + "\n")


def _print(figures: list[Figure], command: Command) -> None:
    device = torch.cuda.get_device_name() if command.device == "cuda" else platform.machine()
    table = Table(
        title=f"Skirmish, random legal play, env steps/s (median of {command.rounds}), {device}"
    )
    table.add_column("map")
    table.add_column("threads", justify="right")
    for parallel in command.parallel:
        table.add_column(f"{parallel:,}", justify="right")
    for map_name, n_threads in sorted({(f.map, f.threads) for f in figures}):
        row = [f for f in figures if (f.map, f.threads) == (map_name, n_threads)]
        table.add_row(map_name, str(n_threads), *(f"{f.steps_per_second:,.0f}" for f in row))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Command, prog="python -m benchmarks.simulator", description=Command.__doc__))
