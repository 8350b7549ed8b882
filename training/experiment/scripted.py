"""A policy that does not learn, as a run: its battles are played once and written down as a test.

Its folder holds config.yaml (the fields below) and metrics.jsonl with one row at `t_env` 0, under
the names that tests of a training run have.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from training.config import ConfigError, EnvArg
from training.envs import nearest
from training.run_folder import RunFolder

EPISODES = 1000
"""Battles of an evaluation: the interval of its win rate is some 6 points wide at most."""


@dataclass(frozen=True)
class ScriptedConfig:
    """What a scripted policy plays."""

    policy: str
    map_name: str
    seed: int
    env: str = "skirmish"
    env_args: dict[str, EnvArg] = field(default_factory=dict)
    episodes: int = EPISODES

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def parse_scripted(values: Mapping[str, Any], source: str) -> ScriptedConfig:
    """The settings from a config.yaml of such a run.

    Raises:
        ConfigError: a key is unknown or missing.
    """
    names = [f.name for f in dataclasses.fields(ScriptedConfig)]
    for key in values:
        if key not in names:
            raise ConfigError(f"{source}: unknown setting {key!r}{nearest(str(key), names)}")
    for key in ("policy", "map_name", "seed"):
        if key not in values:
            raise ConfigError(f"{source}: {key} is missing")
    return ScriptedConfig(**values)


def write_evaluation(
    folder: RunFolder, config: ScriptedConfig, result: Mapping[str, Any], seconds: float
) -> None:
    """Write down what `training.evaluate --json` printed; the settings come last, and make the
    folder a run."""
    row = {
        "t_env": 0,
        "test_return_mean": result["return_mean"],
        "test_return_std": result["return_std"],
        "test_battle_won_mean": result["win_rate"],
        "test_ep_length_mean": result["ep_length_mean"],
        "test_dead_allies_mean": result["dead_allies_mean"],
        "test_dead_enemies_mean": result["dead_enemies_mean"],
        "test_battle_won_ci95": list(result["win_rate_ci95"]),
        "seconds": round(seconds, 1),
        "steps_per_second": round(result["steps_per_second"], 1),
    }
    write_whole(folder.metrics, json.dumps(row, allow_nan=False).encode() + b"\n")
    settings = yaml.safe_dump(config.as_dict(), sort_keys=False)
    write_whole(folder.config, settings.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it holds the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)
