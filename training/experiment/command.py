"""A run as a command that one can type."""

from __future__ import annotations

from typing import Any

from training.config import PRESETS, TrainConfig, load_preset
from training.experiment.scripted import ScriptedConfig

PLAIN = {"map_name": "map", "t_max": "env-steps", "batch_size_run": "parallel"}
"""Flags with a plainer name than their setting's."""


def flags(config: TrainConfig, base: TrainConfig) -> list[str]:
    """The flags that turn `base` into `config`."""
    before = base.as_dict()
    words: list[str] = []
    for name, value in config.as_dict().items():
        if value != before[name]:
            words += _flag(name, value)
    return words


def training_command(config: TrainConfig, preset: str) -> list[str]:
    return ["training.train", "--preset", preset, *flags(config, load_preset(preset))]


def evaluation_command(config: ScriptedConfig) -> list[str]:
    words = ["training.evaluate", "--policy", config.policy, "--map", config.map_name]
    words += ["--episodes", str(config.episodes), "--seed", str(config.seed)]
    words += ["--env", config.env] if config.env != "skirmish" else []
    return words + (_flag("env_args", config.env_args) if config.env_args else [])


def shortest_command(config: TrainConfig | ScriptedConfig) -> list[str]:
    """The command of a run whose preset is not known any more: from the nearest of them."""
    if isinstance(config, ScriptedConfig):
        return evaluation_command(config)
    presets = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    return min((training_command(config, preset) for preset in presets), key=len)


def _flag(name: str, value: Any) -> list[str]:
    flag = PLAIN.get(name, name.replace("_", "-"))
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, dict):
        return [f"--{flag}", *(str(word) for pair in value.items() for word in pair)]
    return [f"--{flag}", str(value)]
