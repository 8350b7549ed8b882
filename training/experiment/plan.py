"""An experiment's file: maps with their budgets, variants, seeds, settings; and the runs they make.

docs/experiments.md describes the keys. A mistake ends in a `ConfigError` that names file and key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from training.config import ConfigError, TrainConfig, load_preset, with_values
from training.envs import check_task, map_label, nearest
from training.experiment.scripted import ScriptedConfig

SCRIPTED = ("heuristic", "closest", "random")  # as in training.policies, which imports torch
KEYS = ("title", "runs", "preset", "maps", "seeds", "settings", "variants")
MAP_KEYS = ("t_max", "seeds", "settings")
VARIANT_KEYS = ("algo", "policy", "preset", "settings")
ELSEWHERE = {
    "map_name": "the keys of `maps` are the maps",
    "algo": "it is a variant's",
    "seed": "`seeds` lists them",
    "t_max": "a map's budget stands under `maps`",
    "minutes": "a run ends at its map's budget",
    "until_win_rate": "a run ends at its map's budget",
}
"""Settings that may not stand under `settings`, and why."""


@dataclass(frozen=True)
class PlannedRun:
    """One run: a variant on a map with a seed."""

    name: str
    """<map>-<variant>-<seed>, its folder's name."""
    config: TrainConfig | ScriptedConfig
    preset: str = ""
    """What its command starts from; its settings are in `config` whatever the preset says."""

    @property
    def map_name(self) -> str:
        config = self.config
        return config.task.map_name if isinstance(config, TrainConfig) else config.map_name

    @property
    def t_max(self) -> int:
        """Environment steps it learns for; 0 of a policy that does not learn."""
        return self.config.stop.t_max if isinstance(self.config, TrainConfig) else 0


@dataclass(frozen=True)
class Experiment:
    """A file, read and checked."""

    title: str
    folder: str
    """Where its runs are kept, below the folder of all runs. Two experiments that name the same
    one share the runs they have in common."""
    runs: tuple[PlannedRun, ...]
    """In the order they are started: all maps and variants with their first seed, then all with
    their second, so that there is something to compare early."""


@dataclass(frozen=True)
class _Map:
    name: str
    t_max: int
    seeds: tuple[int, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Variant:
    name: str
    algo: str
    policy: str | None
    preset: str
    settings: dict[str, Any]


def load_experiment(path: Path) -> Experiment:
    """Read an experiment and work out its runs.

    Raises:
        ConfigError: naming the file, the key, and the nearest one where it is unknown.
    """
    values = _read(path)
    source = str(path)
    _only(values, KEYS, source)
    for key in ("maps", "variants", "seeds"):
        if key not in values:
            raise ConfigError(f"{source}: {key} is missing")
    seeds = _seeds(values["seeds"], f"{source}: seeds")
    settings = _settings(values.get("settings"), f"{source}: settings")
    maps = [
        _map(str(name), about, seeds, f"{source}: maps.{name}")
        for name, about in _mapping(values["maps"], f"{source}: maps").items()
    ]
    preset = _text(values.get("preset", "tuned"), f"{source}: preset")
    variants = [
        _variant(str(name), about, preset, f"{source}: variants.{name}")
        for name, about in _mapping(values["variants"], f"{source}: variants").items()
    ]
    per_map = [list(_runs_of(m, variants, settings, source)) for m in maps]
    rounds = zip_longest(*per_map)  # the n-th holds every map's runs with its n-th seed
    runs = tuple(run for of_seed in rounds for runs in of_seed if runs for run in runs)
    title = _text(values.get("title", path.stem), f"{source}: title")
    folder = _text(values.get("runs", path.stem), f"{source}: runs")
    if Path(folder).name != folder:
        raise ConfigError(f"{source}: runs: a folder's bare name, not {folder!r}")
    return Experiment(title, folder, runs)


def _runs_of(
    played: _Map, variants: Sequence[_Variant], settings: Mapping[str, Any], source: str
) -> Iterator[list[PlannedRun]]:
    """A map's runs, seed by seed."""
    for seed in played.seeds:
        runs = [
            _run(played, variant, seed, settings, source)
            for variant in variants
            if variant.policy is None or seed == played.seeds[0]  # it has nothing to learn anew
        ]
        yield runs


def _run(
    played: _Map, variant: _Variant, seed: int, settings: Mapping[str, Any], source: str
) -> PlannedRun:
    try:
        config = load_preset(variant.preset)
    except ConfigError as error:
        raise ConfigError(f"{source}: variants.{variant.name}: {error}") from None
    for where, values in (
        ("settings", settings),
        (f"maps.{played.name}.settings", played.settings),
        (f"variants.{variant.name}.settings", variant.settings),
    ):
        config = with_values(config, values, f"{source}: {where}")
    fixed: dict[str, Any] = {"map_name": played.name, "seed": seed, "t_max": played.t_max}
    config = with_values(config, fixed, f"{source}: maps.{played.name}")
    task = config.task
    try:
        check_task(task.env, task.map_name, task.env_args)
    except ValueError as error:
        raise ConfigError(f"{source}: maps.{played.name}: {error}") from None
    name = f"{map_label(played.name)}-{variant.name}-{seed}"
    if variant.policy is not None:
        return PlannedRun(
            name, ScriptedConfig(variant.policy, played.name, seed, task.env, task.env_args)
        )
    algo = {"algo": variant.algo}
    config = with_values(config, algo, f"{source}: variants.{variant.name}")
    return PlannedRun(name, config, variant.preset)


def _map(name: str, about: Any, seeds: tuple[int, ...], source: str) -> _Map:
    """`about` is the budget alone, or a mapping with it."""
    values = about if isinstance(about, dict) else {"t_max": about}
    _only(values, MAP_KEYS, source)
    t_max = values.get("t_max")
    if type(t_max) is not int or t_max < 1:
        raise ConfigError(f"{source}: t_max must be a whole number of steps, not {t_max!r}")
    if "seeds" in values:
        seeds = _seeds(values["seeds"], f"{source}.seeds")
    return _Map(name, t_max, seeds, _settings(values.get("settings"), f"{source}.settings"))


def _variant(name: str, about: Any, preset: str, source: str) -> _Variant:
    """It names an algorithm or a scripted policy, or is called like one."""
    values = _mapping({} if about is None else about, source, may_be_empty=True)
    _only(values, VARIANT_KEYS, source)
    if not name or any(c not in "_." and not c.isalnum() for c in name):
        raise ConfigError(f"{source}: a variant's name is made of letters, digits, _ and .")
    policy = values.get("policy", name if name in SCRIPTED and "algo" not in values else None)
    if policy is not None:
        if policy not in SCRIPTED:
            raise ConfigError(f"{source}.policy: there is no {policy!r}{nearest(policy, SCRIPTED)}")
        for key in ("algo", "preset", "settings"):
            if key in values:
                raise ConfigError(f"{source}: {key} is nothing to {policy}, which does not learn")
    preset = _text(values.get("preset", preset), f"{source}.preset")
    settings = _settings(values.get("settings"), f"{source}.settings")
    return _Variant(name, str(values.get("algo", name)), policy, preset, settings)


def _settings(values: Any, source: str) -> dict[str, Any]:
    settings = _mapping({} if values is None else values, source, may_be_empty=True)
    for key, why in ELSEWHERE.items():
        if key in settings:
            raise ConfigError(f"{source}: {key} does not belong here: {why}")
    return settings


def _seeds(values: Any, source: str) -> tuple[int, ...]:
    if not isinstance(values, list) or not values or any(type(v) is not int for v in values):
        raise ConfigError(f"{source}: expected a list of whole numbers, not {values!r}")
    if len(set(values)) < len(values):
        raise ConfigError(f"{source}: a seed is named twice")
    return tuple(values)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_NoTwins)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    return _mapping(values, str(path))


class _NoTwins(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                problem = f"{key!r} stands twice in the mapping that begins in line {line}"
                raise yaml.constructor.ConstructorError(problem=problem)
        return super().construct_mapping(node, deep)


def _mapping(values: Any, source: str, may_be_empty: bool = False) -> dict[str, Any]:
    if not isinstance(values, dict) or not (values or may_be_empty):
        raise ConfigError(f"{source}: expected `name: value` lines")
    return values


def _only(values: Mapping[str, Any], known: Sequence[str], source: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: unknown key {key!r}{nearest(str(key), known)}")


def _text(value: Any, source: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{source}: expected text, not {value!r}")
    return value.strip()
