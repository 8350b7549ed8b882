"""Every setting of a run: typed, frozen, with one line of meaning each.

Names are PyMARL's where PyMARL has the setting. The groups only shape `--help`: a preset is a flat
YAML of names and values that holds just what differs from the defaults below.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from training.algorithms import ALGORITHMS, describe
from training.envs import ENVS, nearest

PRESETS = Path(__file__).parent / "presets"
EnvArg = bool | int | float | str
# Flags with a plainer name than PyMARL's key, which is kept as a second one.
MapName = Annotated[str, tyro.conf.arg(name="map", aliases=("--map-name",))]
EnvSteps = Annotated[int, tyro.conf.arg(name="env-steps", aliases=("--t-max",))]
Algo = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(ALGORITHMS) + "}", help=describe())]
Parallel = Annotated[int, tyro.conf.arg(name="parallel", aliases=("--batch-size-run",))]


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type, or makes no sense."""


@dataclass(frozen=True)
class TaskConfig:
    """What is played, and what is learned from it."""

    env: str = "skirmish"
    """skirmish, the embedded simulator, smac, StarCraft II itself (docs/environments.md), or
    two_step, the QMIX paper's small game."""
    map_name: MapName = ""
    """The map, by SMAC's name or as a file of one's own (docs/maps.md); skirmish plays 3s5z if none
    is named."""
    env_args: dict[str, EnvArg] = field(default_factory=dict)
    """The environment's own settings, as NAME VALUE pairs."""
    algo: Algo = "qmix"
    """What learns: a name in `training.algorithms.ALGORITHMS`."""
    seed: int = 1
    """Fixes the battles, the exploration, the initial weights and the replay's sampling."""

    def __post_init__(self) -> None:
        if self.env not in ENVS:
            raise ConfigError(f"env: there is no {self.env!r}{nearest(self.env, ENVS)}")
        if self.algo not in ALGORITHMS:
            raise ConfigError(f"algo: there is no {self.algo!r}{nearest(self.algo, ALGORITHMS)}")


@dataclass(frozen=True)
class StopConfig:
    """When the run ends: whichever comes first. A resumed run may change these, nothing else."""

    t_max: EnvSteps = 2_050_000
    """Environment steps: one step of one battle, all its agents together."""
    minutes: float | None = None
    """Minutes of wall-clock, counted from this start."""
    until_win_rate: float | None = None
    """The greedy win rate to stop at, once `confirm_nepisode` fresh battles confirm it."""

    def __post_init__(self) -> None:
        _require_positive(self, "t_max", "minutes")
        _require_fraction(self, "until_win_rate")


@dataclass(frozen=True)
class PlayConfig:
    """How battles are played for learning."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where torch finds one."""
    actor: Literal["auto", "process", "local"] = "auto"
    """Who plays: a process of its own while this one learns, or this one, in turns. auto: a process
    on cpu, local on cuda. It changes no result."""
    compile_env: bool = False
    """Compile the simulator's loop: half a minute at the first start, kept on disk for the next;
    the battles are the same. It pays where playing is slower than learning."""
    batch_size_run: Parallel = 64
    """Battles in parallel. How much is learned per battle does not depend on it. coma: at most
    `batch_size`. smac: each is a game of its own; 8 if neither this nor a preset is named."""
    round_steps: int = 16
    """Steps each parallel battle takes between two exchanges of weights and episodes. Not for coma,
    which plays `batch_size` whole battles."""
    epsilon_start: float = 1.0
    """Chance of a random available action at the first step; coma's floor under every action's
    chance."""
    epsilon_finish: float = 0.05
    """The same after `epsilon_anneal_time`."""
    epsilon_anneal_time: int = 50_000
    """Environment steps over which epsilon falls, linearly."""

    def __post_init__(self) -> None:
        _require_positive(self, "batch_size_run", "round_steps", "epsilon_anneal_time")
        _require_fraction(self, "epsilon_start", "epsilon_finish")


@dataclass(frozen=True)
class LearningConfig:
    """The learner and its replay."""

    gradient_steps_per_episode: float = 1.0
    """Gradient steps per finished episode. Times `batch_size` it is the replay ratio: how many
    steps are trained on per step played (PyMARL's one battle at a time: 1, a ratio of 32). Not for
    coma, which trains on every battle once."""
    batch_size: int = 32
    """Episodes per gradient step."""
    buffer_size: int = 5000
    """Episodes the replay holds; the oldest leave first. Not for coma, which has none."""
    buffer_bytes: int = 1_000_000_000
    """Memory the replay may take; on large maps it holds fewer episodes for it."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """The optimiser."""
    lr: float = 5e-4
    """Learning rate."""
    critic_lr: float = 5e-4
    """Learning rate of COMA's critic."""
    optim_alpha: float = 0.99
    """RMSprop's smoothing."""
    optim_eps: float = 1e-5
    """Added to the denominator of the optimiser's step."""
    grad_norm_clip: float = 10.0
    """Largest global norm of a gradient; longer ones are scaled down."""
    gamma: float = 0.99
    """Discount of future rewards."""
    td_lambda: float = 0.0
    """Mix of n-step returns in the target; 0 is PyMARL's one-step target."""
    double_q: bool = True
    """The online network picks the next action, the target network values it."""
    target_update_interval: int = 200
    """Time between copies of the online networks to the target networks."""
    target_update_unit: Literal["episodes", "gradient_steps"] = "episodes"
    """What the interval counts: episodes played, as in PyMARL, or gradient steps. coma: always its
    critic's steps, as in PyMARL."""
    rnn_hidden_dim: int = 64
    """Width of the agent network and its recurrent memory."""
    mixing_embed_dim: int = 32
    """Width of the mixing network."""
    hypernet_layers: Literal[1, 2] = 2
    """Layers of the hypernetworks that make the mixer's weights."""
    hypernet_embed: int = 64
    """Their hidden width."""

    def __post_init__(self) -> None:
        _require_positive(self, "gradient_steps_per_episode", "batch_size", "buffer_size")
        _require_positive(self, "lr", "critic_lr")
        _require_positive(
            self, "buffer_bytes", "optim_eps", "grad_norm_clip", "target_update_interval"
        )
        _require_positive(self, "rnn_hidden_dim", "mixing_embed_dim", "hypernet_embed")
        _require_fraction(self, "optim_alpha", "gamma", "td_lambda")
        if self.buffer_size < self.batch_size:
            raise ConfigError(
                f"buffer_size: {self.buffer_size} episodes cannot fill a batch of {self.batch_size}"
            )


@dataclass(frozen=True)
class ReportConfig:
    """Tests, reports and checkpoints."""

    test_interval: int = 10_000
    """Environment steps between greedy tests."""
    test_nepisode: int = 32
    """Battles of a test, played at once on battles never trained on."""
    confirm_nepisode: int = 200
    """Fresh battles that confirm a test before it counts as the best, or ends the run."""
    log_interval: int = 10_000
    """Environment steps between reports."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints. When they are written changes no result."""

    def __post_init__(self) -> None:
        _require_positive(self, "test_interval", "test_nepisode", "confirm_nepisode")
        _require_positive(self, "log_interval", "checkpoint_seconds")


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run."""

    task: TaskConfig = field(default_factory=TaskConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    play: PlayConfig = field(default_factory=PlayConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        if not ALGORITHMS[self.task.algo].on_policy:
            return
        algo, batch, parallel = self.task.algo, self.learning.batch_size, self.play.batch_size_run
        if parallel > batch:
            raise ConfigError(
                f"batch_size_run: {algo} plays batches of {batch} battles (batch_size), so at most "
                f"{batch} of them in parallel, not {parallel}"
            )
        if self.play.epsilon_finish == 1.0:
            raise ConfigError(
                f"epsilon_finish: at 1 all actions of {algo} stay random; it learns nothing"
            )

    def as_dict(self) -> dict[str, Any]:
        """All settings by name, without the groups."""
        groups = (getattr(self, group.name) for group in dataclasses.fields(self))
        return {name: value for group in groups for name, value in _own_values(group).items()}

    def sha256(self) -> str:
        """Hash of what is learned and how; the stop rules leave it alone."""
        settings = {k: v for k, v in self.as_dict().items() if k not in _names(StopConfig)}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load_preset(preset: str) -> TrainConfig:
    """The defaults with a preset's values on top.

    Args:
        preset: the name of a file in `training/presets`, or the path of a YAML of one's own.

    Raises:
        ConfigError: the preset is not found, or holds an unknown key or a wrong value.
    """
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml"
    if not path.is_file():
        known = [p.stem for p in PRESETS.glob("*.yaml")]
        raise ConfigError(f"preset: there is no {preset!r}{nearest(preset, known)}")
    return load_yaml(path)


def load_yaml(path: Path) -> TrainConfig:
    """Read settings by name from a flat YAML file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `name: value` lines")
    return with_values(TrainConfig(), values, source=str(path))


def save_yaml(config: TrainConfig, path: Path) -> None:
    """Write all settings; the file is itself a preset."""
    path.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False), encoding="utf-8")


def with_values(config: TrainConfig, values: Mapping[str, Any], source: str) -> TrainConfig:
    """`config` with some settings replaced.

    Args:
        values: setting -> value.
        source: where the values come from, for the error messages.

    Raises:
        ConfigError: naming source, key, expected type and value.
    """
    by_group: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        typed = typed_value(key, value, source)
        by_group.setdefault(_homes()[key], {})[key] = typed
    try:
        groups = {g: dataclasses.replace(getattr(config, g), **v) for g, v in by_group.items()}
        return dataclasses.replace(config, **groups)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def typed_value(key: str, value: Any, source: str) -> Any:
    """`value` as the setting `key` has it: an integer is a number too.

    Raises:
        ConfigError: naming source, key, expected type and value.
    """
    homes = _homes()
    if key not in homes:
        raise ConfigError(f"{source}: unknown setting {key!r}{nearest(str(key), homes)}")
    hints = typing.get_type_hints(typing.get_type_hints(TrainConfig)[homes[key]])
    return _typed(value, hints[key], key, source)


def changed_settings(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The settings in which two runs' configurations differ, as "name: old -> new", but for the
    stop rules."""
    before, after = old.as_dict(), new.as_dict()
    return [
        f"{name}: {before[name]!r} -> {after[name]!r}"
        for name in before
        if before[name] != after[name] and name not in _names(StopConfig)
    ]


def _homes() -> dict[str, str]:
    """Setting -> the group it belongs to."""
    groups = typing.get_type_hints(TrainConfig)
    return {name: group for group, its_class in groups.items() for name in _names(its_class)}


def _names(group: type) -> list[str]:
    return [f.name for f in dataclasses.fields(group)]


def _own_values(group: Any) -> dict[str, Any]:
    return {name: getattr(group, name) for name in _names(type(group))}


def _typed(value: Any, expected: Any, key: str, source: str) -> Any:
    """`value` if it has the expected type; an integer is a number too."""
    problem = f"{source}: {key} must be {_spell(expected)}, not {value!r} ({type(value).__name__})"
    options = typing.get_args(expected) if _is_union(expected) else (expected,)
    for option in options:
        if typing.get_origin(option) is Literal:
            choices = typing.get_args(option)
            if any(value == choice and type(value) is type(choice) for choice in choices):
                return value
            if isinstance(value, str):
                problem += nearest(value, choices)
        elif option is float and type(value) is int:
            return float(value)
        elif option is float and isinstance(value, str) and _is_number(value):
            return float(value)  # YAML 1.1 reads 5e-4, without a dot, as text
        elif option is types.NoneType and value is None:
            return None
        elif typing.get_origin(option) is dict and isinstance(value, dict):
            return {str(k): _typed(v, EnvArg, f"{key}.{k}", source) for k, v in value.items()}
        elif type(value) is option:
            return value
    raise ConfigError(problem)


def _is_union(expected: Any) -> bool:
    return typing.get_origin(expected) in (typing.Union, types.UnionType)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _spell(expected: Any) -> str:
    if typing.get_origin(expected) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(expected))
    if _is_union(expected):
        return " or ".join(_spell(option) for option in typing.get_args(expected))
    if typing.get_origin(expected) is dict:
        return "a mapping"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(expected, "null" if expected is types.NoneType else str(expected))


def _require_positive(group: Any, *names: str) -> None:
    for name in names:
        value = getattr(group, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name}: must be more than 0, not {value}")


def _require_fraction(group: Any, *names: str) -> None:
    for name in names:
        value = getattr(group, name)
        if value is not None and not 0 <= value <= 1:
            hint = f"; did you mean {value / 100:g}?" if 1 < value <= 100 else ""
            raise ConfigError(f"{name}: must be a fraction between 0 and 1, not {value}{hint}")
