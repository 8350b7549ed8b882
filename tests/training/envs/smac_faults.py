"""Training while games crash, hang and talk nonsense.

    python -m tests.training.envs.smac_faults --smac-python ../smac-venv/bin/python

plays SMAC's own code with Skirmish in the place of the game (docs/sc2-api.md says how to make such
a Python); without it a made-up SMAC is played, whose games start sooner. Every episode that comes
to the replay must be a whole battle; afterwards no process may be left.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from unittest import mock

import numpy as np

from tests.training.envs import faults
from tests.training.envs.games import CHECKOUT, FAKE_SMAC, MARK, all_gone, lay_out, new_mark
from tests.training.runs import training
from training.config import TrainConfig, load_preset, with_values
from training.metrics import read_metrics
from training.types import Episode

N_WORKERS = 4
RESET_SECONDS = 60
ENOUGH_EPISODES = 40  # after a batch of 32 learning begins

Check = Callable[[Episode], list[str]]


def problems_of_made_up(episode: Episode) -> list[str]:
    """Where an episode of the made-up SMAC is not one whole battle of one game (`fake_smac`)."""
    seed, battle, steps, pid = episode.state[0, :4].tolist()
    wrong = {
        "its length": episode.length != steps,
        "its first or last moment": episode.obs[:, 0, 0].tolist() != list(range(int(steps) + 1)),
        "battles mixed": (episode.state[:, :2] != [seed, battle]).any(),
        "games mixed": (episode.state[:, 3] != pid).any(),
        "a reward": not (episode.reward == 1).all(),
        "the winner": episode.battle_won != (battle % 3 == 0),
        "its ending": not episode.terminal,
    }
    return [f"battle {episode.battle_id}: {what}" for what, is_wrong in wrong.items() if is_wrong]


def problems_on_3m(episode: Episode) -> list[str]:
    """Where an episode is no whole battle of 3m: it begins with all units whole and goes on until
    one side is dead or its 60 steps are over."""
    health = episode.state[:, [0, 4, 8, 12, 15, 18]]  # of three allies, then of three enemies
    undecided = np.logical_and((health[:, :3] > 0).any(1), (health[:, 3:] > 0).any(1))
    wrong = {
        "it begins with wounds": not (health[0] == 1).all(),
        "it goes on after its end": not undecided[:-1].all(),
        f"it breaks off after step {episode.length}": undecided[-1] and episode.length < 60,
        "the winner": episode.battle_won != (health[-1, 3:] == 0).all(),
    }
    return [f"battle {episode.battle_id}: {what}" for what, is_wrong in wrong.items() if is_wrong]


def made_up_smac(scratch: Path) -> dict[str, str]:
    """The environment in which workers find the made-up SMAC."""
    game = lay_out(scratch / "game", "3m")
    return {
        "SC2PATH": str(game),
        "PYTHONPATH": f"{FAKE_SMAC}:{CHECKOUT}",
        "UNMIX_SMAC_PYTHON": "",
    }


def real_smac(scratch: Path, smac_python: Path) -> dict[str, str]:
    """The environment in which workers find SMAC, and SMAC the API's server with faults."""
    from tests.training.envs import faulty_game

    game = faulty_game.install(scratch / "game")
    return {"SC2PATH": str(game), "UNMIX_SMAC_PYTHON": str(smac_python)}


def config_of(step_seconds: float) -> TrainConfig:
    settings = {
        "env": "smac",
        "map_name": "3m",
        "env_args": {"step_seconds": step_seconds, "reset_seconds": RESET_SECONDS},
        "batch_size_run": N_WORKERS,
        "test_interval": 300,
        "test_nepisode": N_WORKERS,
        "confirm_nepisode": N_WORKERS,
        "log_interval": 16 * N_WORKERS,  # a round
        "t_max": 10_000_000,
    }
    return with_values(load_preset("tuned"), settings, "smac_faults")


def run(
    scratch: Path,
    environment: Mapping[str, str],
    check: Check,
    chance: float,
    step_seconds: float,
    counts: Mapping[str, int],
) -> str:
    """Train until so many faults of each kind have been had, and learning has begun.

    Args:
        environment: variables.
        chance: of a fault each time a game might have one.

    Returns:
        What it came to, in words.

    Raises:
        AssertionError: a part of a battle was stored, a restart not counted, or a process is left.
    """
    mark, folder = new_mark(), scratch / "faults"
    faults.put(folder, **counts)
    ours = {faults.FOLDER: str(folder), faults.CHANCE: str(chance), MARK: mark}
    begun = told = time.monotonic()
    n_episodes = 0
    problems: list[str] = []
    with (
        mock.patch.dict(os.environ, {**environment, **ours}),
        training(config_of(step_seconds), scratch / "run", process=True) as trainer,
    ):
        add = trainer.replay.add

        def checked(episodes: Iterable[Episode]) -> None:
            nonlocal n_episodes, told
            new = list(episodes)
            n_episodes += len(new)
            problems.extend(problem for episode in new for problem in check(episode))
            add(new)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(
                    f"{len(list(folder.iterdir()))} faults left, {n_episodes} episodes", flush=True
                )

        trainer.replay.add = checked  # type: ignore[method-assign]
        trainer.stop = lambda: n_episodes > ENOUGH_EPISODES and not any(folder.iterdir())
        trainer.run()
        gradient_steps = trainer.counts.gradient_steps
    rows = read_metrics(scratch / "run" / "metrics.jsonl")
    restarts = max(row.get("game_restarts", 0) for row in rows)
    assert not problems, problems
    assert gradient_steps > 0
    assert any("test_battle_won_mean" in row for row in rows)
    # The stop may have come within the round of the last fault.
    assert 0 <= sum(counts.values()) - restarts <= 1, (counts, restarts)
    assert all_gone(mark), "processes are left"
    had = ", ".join(f"{count} x {kind}" for kind, count in counts.items())
    seconds = time.monotonic() - begun
    return (
        f"{had}: {restarts} games started anew, {n_episodes} episodes stored, all whole, "
        f"{gradient_steps} gradient steps, 0 processes left, {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="training on games that crash, hang and babble")
    parser.add_argument("--smac-python", type=Path, help="plays SMAC's own code")
    parser.add_argument("--crash", type=int, default=50)
    parser.add_argument("--hang", type=int, default=20)
    parser.add_argument("--garbage", type=int, default=10)
    parser.add_argument("--chance", type=float, help="of a fault: at each request, or each step")
    parser.add_argument("--step-seconds", type=float, default=5.0)
    chosen = parser.parse_args()
    counts = {kind: getattr(chosen, kind) for kind in ("crash", "hang", "garbage")}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if chosen.smac_python:
            environment = real_smac(scratch, chosen.smac_python)
            check, chance = problems_on_3m, chosen.chance or 0.005
        else:
            environment, check = made_up_smac(scratch), problems_of_made_up
            chance = chosen.chance or 0.02
        print(run(scratch, environment, check, chance, chosen.step_seconds, counts))


if __name__ == "__main__":
    main()
