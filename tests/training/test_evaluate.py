"""The evaluation command: scripted policies, the figures it reports, and its errors."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from training.evaluate import Command, run, summarise
from training.types import BattleRecord


def record(battle_id: int, won: bool, value: float, actions: list[list[int]]) -> BattleRecord:
    return BattleRecord(battle_id, np.array(actions, dtype=np.uint8), value, won, 1, 3)


def test_figures_of_two_battles_by_hand() -> None:
    battles = [record(0, True, 20.0, [[1, 2], [3, 4]]), record(1, False, 10.0, [[5, 6]])]
    result = summarise(battles, 0.5, "policy", "3m", 9)
    assert (result.episodes, result.win_rate) == (2, 0.5)
    assert (result.return_mean, result.return_std) == (15.0, 5.0)
    assert (result.ep_length_mean, result.steps_per_second) == (1.5, 6.0)
    assert (result.dead_allies_mean, result.dead_enemies_mean) == (1.0, 3.0)
    assert result.actions_sha256 == hashlib.sha256(bytes([1, 2, 3, 4, 5, 6])).hexdigest()
    # Wilson's interval of 1 in 2: 0.5 -+ 1.96 sqrt(1/8 + 1.96^2/16) / (1 + 1.96^2 / 2).
    assert result.win_rate_ci95 == pytest.approx((0.0945, 0.9055), abs=1e-4)


@pytest.mark.parametrize("policy", ["heuristic", "closest", "random"])
def test_scripted_battles_do_not_depend_on_those_beside_them(policy: str) -> None:
    alone, beside = (run(Command(policy, "3m", 6, seed=5, parallel=p)) for p in (1, 6))
    assert alone.actions_sha256 == beside.actions_sha256
    assert alone.return_mean == beside.return_mean


def test_closest_beats_random() -> None:
    closest, random = (run(Command(p, "2s3z", 20, seed=3)) for p in ("closest", "random"))
    assert closest.return_mean > 2 * random.return_mean


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.evaluate", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_json_object_on_the_command_line() -> None:
    done = command_line("--map", "3m", "--policy", "random", "--episodes", "4", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"win_rate", "win_rate_ci95", "actions_sha256", "steps_per_second"} <= set(result)


def test_an_unknown_map_is_one_line_with_the_nearest_name() -> None:
    done = command_line("--map", "3s5y", "--policy", "random")
    assert done.returncode == 1
    assert done.stderr.startswith("training.evaluate: unknown map '3s5y'; did you mean")
    assert done.stderr.count("\n") == 1
