"""An experiment's file: the runs it makes, their commands, and its mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.venvs import ROOT
from training.config import ConfigError, TrainConfig, load_preset, with_values
from training.experiment.command import shortest_command, training_command
from training.experiment.plan import load_experiment
from training.experiment.scripted import ScriptedConfig
from training.train import choose_run

SMALL: dict[str, Any] = {
    "maps": {"3m": 400_000, "8m": {"t_max": 600_000, "seeds": [1], "settings": {"lr": 0.1}}},
    "seeds": [1, 2],
    "settings": {"test_interval": 20_000, "lr": 0.2},
    "variants": {
        "qmix": None,
        "slow": {"algo": "vdn", "preset": "paper", "settings": {"lr": 0.3}},
        "heuristic": {},
    },
}


def written(path: Path, values: Any) -> Path:
    file = path / "small.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def test_first_seeds_come_first_and_a_scripted_policy_plays_once(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, SMALL))
    assert (experiment.title, experiment.folder) == ("small", "small")
    assert [run.name for run in experiment.runs] == [
        *("3m-qmix-1", "3m-slow-1", "3m-heuristic-1"),
        *("8m-qmix-1", "8m-slow-1", "8m-heuristic-1"),
        *("3m-qmix-2", "3m-slow-2"),
    ]
    assert [run.t_max for run in experiment.runs][:4] == [400_000, 400_000, 0, 600_000]


def test_the_nearer_setting_wins(tmp_path: Path) -> None:
    runs = {run.name: run for run in load_experiment(written(tmp_path, SMALL)).runs}
    common = {"test_interval": 20_000, "map_name": "3m", "t_max": 400_000}
    expected = with_values(load_preset("tuned"), common | {"lr": 0.2, "seed": 2}, "test")
    assert runs["3m-qmix-2"].config == expected
    eight = common | {"map_name": "8m", "t_max": 600_000}
    expected = with_values(load_preset("tuned"), eight | {"lr": 0.1}, "test")
    assert runs["8m-qmix-1"].config == expected
    expected = with_values(load_preset("paper"), eight | {"lr": 0.3, "algo": "vdn"}, "test")
    assert runs["8m-slow-1"].config == expected
    assert runs["8m-heuristic-1"].config == ScriptedConfig("heuristic", "8m", 1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seedz", [1], "unknown key 'seedz'; did you mean 'seeds'?"),
        ("maps", {"3mm": 10}, "maps.3mm: unknown map '3mm'; did you mean "),
        ("maps", {"3m": "long"}, "maps.3m: t_max must be a whole number of steps, not 'long'"),
        ("maps", {"3m": {"steps": 1}}, "maps.3m: unknown key 'steps'; did you mean 'seeds'?"),
        ("maps", {}, "maps: expected `name: value` lines"),
        ("seeds", 3, "seeds: expected a list of whole numbers, not 3"),
        ("seeds", [1, 1], "seeds: a seed is named twice"),
        ("seeds", [True], "seeds: expected a list of whole numbers"),
        ("preset", "tund", "preset: there is no 'tund'; did you mean 'tuned'?"),
        ("runs", "a/b", "runs: a folder's bare name, not 'a/b'"),
        ("title", 7, "title: expected text, not 7"),
        ("settings", {"test_intervl": 1}, "settings: unknown setting 'test_intervl'; did you mean"),
        ("settings", {"lr": -1}, "settings: lr: must be more than 0, not -1"),
        ("settings", {"minutes": 3}, "settings: minutes does not belong here: a run ends at its"),
        ("settings", {"env_args": {"step_mull": 4}}, "'step_mull'"),
        ("variants", {"qmx": {}}, "variants.qmx: algo: there is no 'qmx'; did you mean 'qmix'?"),
        (
            "variants",
            {"mine": {"algo": "vdm"}},
            "variants.mine: algo: there is no 'vdm'; did you mean",
        ),
        ("variants", {"qmix": {"lr": 1}}, "variants.qmix: unknown key 'lr'"),
        ("variants", {"a-b": {"algo": "qmix"}}, "a variant's name is made of letters"),
        ("variants", {"mine": {"policy": "closets"}}, "there is no 'closets'; did you mean 'clos"),
        ("variants", {"random": {"settings": {"lr": 1}}}, "settings is nothing to random"),
        ("variants", {"qmix": {"preset": "papers"}}, "variants.qmix: preset: there is no 'papers'"),
        ("variants", {"qmix": {"settings": {"seed": 1}}}, "seed does not belong here: `seeds` l"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    file = written(tmp_path, SMALL | {key: value})
    with pytest.raises(ConfigError) as error:
        load_experiment(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)


@pytest.mark.parametrize("key", ["maps", "variants", "seeds"])
def test_what_is_missing_is_named(tmp_path: Path, key: str) -> None:
    values = {k: v for k, v in SMALL.items() if k != key}
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        load_experiment(written(tmp_path, values))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load_experiment(tmp_path / "none.yaml")
    file = tmp_path / "small.yaml"
    for text, message in (
        ("maps: [", "not YAML"),
        ("- 3m", "expected `name: value` lines"),
        ("maps: {3m: 1, 3m: 2}", "'3m' stands twice in the mapping that begins in line 1"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_experiment(file)


def test_a_command_makes_the_very_run(tmp_path: Path) -> None:
    settings = {
        "lr": 1e-05,
        "double_q": False,
        "compile_env": True,
        "batch_size_run": 16,
        "env_args": {"step_mul": 4, "heuristic_rest": True, "reward_win": 100.5},
    }
    values = SMALL | {"settings": settings, "variants": {"iql": {"preset": "paper"}}}
    for run in load_experiment(written(tmp_path, values)).runs:
        assert isinstance(run.config, TrainConfig)
        for words in (training_command(run.config, run.preset), shortest_command(run.config)):
            assert words[0] == "training.train"
            _, config, _ = choose_run(words[1:])
            assert config == run.config
    assert shortest_command(ScriptedConfig("closest", "3m", 5, env_args={"step_mul": 4})) == [
        *("training.evaluate", "--policy", "closest", "--map", "3m"),
        *("--episodes", "1000", "--seed", "5", "--env-args", "step_mul", "4"),
    ]


def test_the_example_in_the_documentation_is_sound(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    file = tmp_path / "example.yaml"
    file.write_text(text.split("```yaml\n")[1].split("```")[0])
    experiment = load_experiment(file)
    assert len(experiment.runs) == 3 * 3 + 1 + 3 * 2 + 1
    slow = next(run for run in experiment.runs if run.name == "8m-slow-2")
    changed = {"lr": 0.001, "batch_size": 64, "test_interval": 20_000, "device": "cpu"}
    where = {"map_name": "8m", "t_max": 600_000, "seed": 2}
    assert slow.config == with_values(load_preset("paper"), changed | where, "test")


@pytest.mark.parametrize(
    ("name", "maps"), [("paper", 6), ("ablations", 3), ("recipes", 3), ("zoo", 8)]
)
def test_the_experiments_kept_here_are_sound(name: str, maps: int) -> None:
    experiment = load_experiment(ROOT / "experiments" / f"{name}.yaml")
    assert experiment.folder == "paper"  # what they have in common is computed once
    assert len({run.map_name for run in experiment.runs}) == maps
