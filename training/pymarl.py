"""PyMARL's configuration files as they are: `training.train --config default.yaml --config ...`.

Facts are from PyMARL's src/config and from where its code reads them (oxwhirl/pymarl, August 2021).
Files are merged in their order, env_args key by key. Of every key one of four things is true:

    it is one of our settings, which have PyMARL's names
    it is said otherwise here, and translated (`_algorithm`, `_task`, `_pace`)
    one value or a few are what this program does, and others are refused (`ONLY`)
    it has no meaning here, and is ignored (`IGNORED`)

docs/from-pymarl.md has the same as a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from training.config import ConfigError, TrainConfig, typed_value, with_values
from training.envs import ENVS, nearest
from training.envs.skirmish.options import (
    OF_THE_GAME,
    OptionError,
    SkirmishOptions,
    parse_options,
)

_NOT_LOADED = "PyMARL's models are not loaded; --resume RUN goes on with a run of this trainer"

# Key -> the values that mean what happens here, and what that is.
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "env": (("sc2", *ENVS), "sc2 is played in skirmish, the embedded simulator"),
    "runner": (("episode", "parallel"), "battles are played side by side in one simulator"),
    "mac": (("basic_mac",), "agents share one network"),
    "agent": (("rnn",), "agents are PyMARL's recurrent ones"),
    "obs_agent_id": ((True,), "an agent's id is always among its inputs"),
    "obs_last_action": ((True,), "an agent's last action is always among its inputs"),
    "use_cuda": ((True, False), "True is cuda where torch finds it, False the cpu"),
    "learner": (("q_learner", "coma_learner"), "QMIX, VDN and IQL share a learner, COMA has its"),
    "mixer": (("qmix", "vdn", None), "the Q learner's mixers"),
    "test_greedy": ((True,), "tests are greedy"),
    "mask_before_softmax": ((False,), "as in PyMARL's coma.yaml"),
    "critic_q_fn": (("coma",), "COMA's critic is the paper's"),
    "critic_baseline_fn": (("coma",), "COMA's baseline is the paper's"),
    "critic_train_mode": (("seq",), "COMA's critic learns step by step"),
    "critic_train_reps": ((1,), "COMA's critic learns once from each battle"),
    "q_nstep": ((0,), "td_lambda says how far a target looks ahead"),
    "checkpoint_path": (("",), _NOT_LOADED),
    "load_step": ((0,), _NOT_LOADED),
    "evaluate": ((False,), "python -m training.evaluate does it"),
    "save_replay": ((False,), "python -m training.render does it"),
}

# What a learner needs these keys to be.
OF_THE_LEARNER = {
    "q_learner": {"agent_output_type": "q", "action_selector": "epsilon_greedy"},
    "coma_learner": {"agent_output_type": "pi_logits", "action_selector": "multinomial"},
}

# Key -> why it has no meaning here. Those of `ONLY` are checked first.
IGNORED = {
    "runner": ONLY["runner"][1],
    "name": "--name names a run",
    "label": "--name names a run",
    "repeat_id": "--seed and --name tell runs apart",
    "buffer_cpu_only": "the replay lies where the learner does, see --device",
    "runner_log_interval": "log_interval is for everything",
    "learner_log_interval": "log_interval is for everything",
    "use_tensorboard": "TensorBoard's events are always written",
    "save_model": "checkpoints are always written",
    "save_model_interval": "checkpoints go by the clock, see --checkpoint-seconds",
    "local_results_path": "--runs-dir says where runs are kept",
    "env_args.seed": "PyMARL itself puts the run's seed there",
    **{f"env_args.{key}": "of the game itself, which is not played" for key in OF_THE_GAME},
}

ENV = "env_args."
SETTINGS = tuple(TrainConfig().as_dict())
TRANSLATED = ("agent_output_type", "action_selector", ENV + "map_name")
KNOWN = tuple(dict.fromkeys((*SETTINGS, *ONLY, *TRANSLATED, *IGNORED)))
DEFAULT_OPTIONS = {option.name: option.default for option in fields(SkirmishOptions)}


@dataclass(frozen=True)
class Entry:
    """A key's value, and the file that says so."""

    value: Any
    file: str


@dataclass(frozen=True)
class Translation:
    """What PyMARL's files mean here."""

    settings: dict[str, Entry]
    """Our setting -> its value; types are not checked yet."""
    ignored: list[str]
    """Keys that have no meaning here, "env_args.debug" among them."""


def with_pymarl(config: TrainConfig, paths: Sequence[Path]) -> tuple[TrainConfig, str]:
    """`config` with PyMARL's files on top, and one line that says what of them was ignored.

    Raises:
        ConfigError: naming file, key and value, and what is supported.
    """
    translation = translate(read_files(paths))
    settings = translation.settings
    values = {name: typed_value(name, entry.value, entry.file) for name, entry in settings.items()}
    files = ", ".join(str(path) for path in paths)
    config = with_values(config, values, source=files)
    ignored = ", ".join(translation.ignored) or "nothing"
    return config, f"{files}: ignored: {ignored} (docs/from-pymarl.md says why)"


def read_files(paths: Iterable[Path]) -> dict[str, Entry]:
    """Key -> entry, later files over earlier ones; env_args' keys as "env_args.step_mul".

    Raises:
        ConfigError: a file is not there, or not a mapping.
    """
    entries: dict[str, Entry] = {}
    for path in paths:
        for key, value in _read(path).items():
            if key == "env_args":
                for name, option in _mapping(value, f"{path}: env_args").items():
                    entries[f"env_args.{name}"] = Entry(option, str(path))
            else:
                entries[str(key)] = Entry(value, str(path))
    return entries


def translate(entries: dict[str, Entry]) -> Translation:
    """PyMARL's keys as our settings.

    Raises:
        ConfigError: an unknown key, or a value that cannot be honoured.
    """
    for key, entry in entries.items():
        _require_known(key, entry)
        _require_supported(key, entry)
    _require_fitting_the_learner(entries)
    settings = {key: entry for key, entry in entries.items() if key in SETTINGS}
    settings |= _algorithm(entries) | _task(entries) | _pace(entries)
    if settings.get("batch_size_run", Entry(None, "")).value == 1:
        del settings["batch_size_run"]  # how many play at once is then for the preset to say
    return Translation(settings, [key for key in entries if key in IGNORED])


def _algorithm(entries: dict[str, Entry]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    learner, mixer = entries.get("learner"), entries.get("mixer")
    if learner is not None and learner.value == "coma_learner":
        found["algo"] = Entry("coma", learner.file)
    elif mixer is not None:
        found["algo"] = Entry(mixer.value or "iql", mixer.file)
        if mixer.value == "qmix" and "hypernet_layers" not in entries:
            found["hypernet_layers"] = Entry(1, mixer.file)  # as PyMARL's mixer has it then
    return found


def _task(entries: dict[str, Entry]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    env = entries.get("env", Entry("sc2", ""))
    if env.value == "sc2":
        env = Entry("skirmish", env.file)
    if "env" in entries:
        found["env"] = env
    of_env = {key[len(ENV) :]: e for key, e in entries.items() if key.startswith(ENV)}
    if "map_name" in of_env:
        found["map_name"] = of_env["map_name"]
    if options := {k: e for k, e in of_env.items() if k != "map_name" and ENV + k not in IGNORED}:
        found["env_args"] = _env_args(options, env.value)
    return found


def _env_args(options: dict[str, Entry], env: str) -> Entry:
    """Those that differ from skirmish's defaults, which are SMAC's."""
    files = ", ".join(dict.fromkeys(entry.file for entry in options.values()))
    values = {name: entry.value for name, entry in options.items()}
    if env == "skirmish":
        for name, entry in options.items():
            try:
                parse_options({name: entry.value})
            except OptionError as error:
                raise ConfigError(f"{entry.file}: env_args: {error}") from None
        values = {k: value for k, value in values.items() if value != DEFAULT_OPTIONS[k]}
    return Entry(values, files)


def _pace(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Where to compute, and how much to learn from a battle."""
    found: dict[str, Entry] = {}
    if (use_cuda := entries.get("use_cuda")) is not None:
        found["device"] = Entry("auto" if use_cuda.value else "cpu", use_cuda.file)
    n_battles = entries.get("batch_size_run")
    if n_battles is not None and "gradient_steps_per_episode" not in entries:
        # There a gradient step follows every so many battles, played at once.
        n = typed_value("batch_size_run", n_battles.value, n_battles.file)
        if n > 0:
            found["gradient_steps_per_episode"] = Entry(1 / n, n_battles.file)
    return found


def _require_known(key: str, entry: Entry) -> None:
    if key not in KNOWN and not (key.startswith(ENV) and key[len(ENV) :] in DEFAULT_OPTIONS):
        options = [ENV + name for name in DEFAULT_OPTIONS] if key.startswith(ENV) else []
        raise ConfigError(f"{entry.file}: unknown key {key!r}{nearest(key, [*KNOWN, *options])}")


def _require_supported(key: str, entry: Entry) -> None:
    if key not in ONLY:
        return
    supported, why = ONLY[key]
    if not any(type(entry.value) is type(v) and entry.value == v for v in supported):
        raise _refusal(key, entry, supported, why)


def _require_fitting_the_learner(entries: dict[str, Entry]) -> None:
    learner = entries["learner"].value if "learner" in entries else "q_learner"
    for key, value in OF_THE_LEARNER[learner].items():
        if key in entries and entries[key].value != value:
            raise _refusal(key, entries[key], (value,), f"what a {learner} needs")


def _refusal(key: str, entry: Entry, supported: Sequence[Any], why: str) -> ConfigError:
    values = " or ".join(repr(value) for value in supported)
    return ConfigError(
        f"{entry.file}: {key}: {entry.value!r} is not supported, only {values} ({why})"
    )


def _read(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config: {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    return _mapping(content, str(path))


def _mapping(value: Any, source: str) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: expected `name: value` lines")
    return value
