"""Settings: presets, YAML, and errors that name the mistake and its cure."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from training.config import (
    PRESETS,
    ConfigError,
    TrainConfig,
    changed_settings,
    load_preset,
    load_yaml,
    save_yaml,
    with_values,
)


def test_paper_preset_has_pymarl_numbers() -> None:
    values = load_preset("paper").as_dict()
    pymarl = {
        "t_max": 2_050_000,
        "lr": 5e-4,
        "optimizer": "rmsprop",
        "optim_alpha": 0.99,
        "optim_eps": 1e-5,
        "grad_norm_clip": 10,
        "gamma": 0.99,
        "td_lambda": 0.0,
        "batch_size": 32,
        "buffer_size": 5000,
        "gradient_steps_per_episode": 1.0,
        "epsilon_start": 1.0,
        "epsilon_finish": 0.05,
        "epsilon_anneal_time": 50_000,
        "target_update_interval": 200,
        "target_update_unit": "episodes",
        "rnn_hidden_dim": 64,
        "mixing_embed_dim": 32,
        "hypernet_layers": 2,
        "hypernet_embed": 64,
        "double_q": True,
        "test_interval": 10_000,
        "test_nepisode": 32,
    }
    assert {name: values[name] for name in pymarl} == pymarl


def test_coma_preset_has_pymarl_numbers() -> None:
    values = load_preset("coma").as_dict()
    pymarl = {
        "algo": "coma",
        "t_max": 2_050_000,
        "lr": 5e-4,
        "critic_lr": 5e-4,
        "optimizer": "rmsprop",
        "optim_alpha": 0.99,
        "optim_eps": 1e-5,
        "grad_norm_clip": 10,
        "gamma": 0.99,
        "td_lambda": 0.8,
        "batch_size": 8,
        "batch_size_run": 8,
        "epsilon_start": 0.5,
        "epsilon_finish": 0.01,
        "epsilon_anneal_time": 100_000,
        "target_update_interval": 200,
        "rnn_hidden_dim": 64,
        "test_interval": 10_000,
        "test_nepisode": 32,
    }
    assert {name: values[name] for name in pymarl} == pymarl


def test_a_run_from_before_there_were_more_settings_still_loads(tmp_path: Path) -> None:
    values = load_preset("paper").as_dict()
    del values["critic_lr"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    assert load_yaml(path) == load_preset("paper")


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_holds_only_what_differs(path: Path) -> None:
    defaults = TrainConfig().as_dict()
    preset = load_preset(path.stem).as_dict()
    for name in yaml.safe_load(path.read_text()):
        assert preset[name] != defaults[name]


def test_a_saved_config_is_a_preset_of_its_own(tmp_path: Path) -> None:
    config = with_values(load_preset("tuned"), {"env_args": {"step_mul": 4}, "minutes": 3}, "test")
    path = tmp_path / "config.yaml"
    save_yaml(config, path)
    assert load_yaml(path) == config
    assert load_preset(str(path)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon_anneal_tme": 1}, "unknown setting 'epsilon_anneal_tme'; did you mean 'epsilon_"),
        ({"lr": "fast"}, "lr must be a number, not 'fast' (str)"),
        ({"batch_size": 32.0}, "batch_size must be a whole number, not 32.0 (float)"),
        ({"batch_size": True}, "batch_size must be a whole number, not True (bool)"),
        ({"double_q": 1}, "double_q must be true or false, not 1 (int)"),
        ({"algo": "qmx"}, "algo: there is no 'qmx'; did you mean 'qmix'?"),
        ({"algo": "ppo"}, "algo: there is no 'ppo'; known: coma, iql, qmix, qmix_lin"),
        ({"gamma": 1.5}, "gamma: must be a fraction between 0 and 1, not 1.5"),
        ({"td_lambda": -0.1}, "td_lambda: must be a fraction between 0 and 1, not -0.1"),
        ({"hypernet_layers": 3}, "hypernet_layers must be one of 1, 2, not 3 (int)"),
        ({"minutes": "soon"}, "minutes must be a number or null, not 'soon' (str)"),
        ({"env_args": [1]}, "env_args must be a mapping, not [1] (list)"),
        ({"env_args": {"a": None}}, "env_args.a must be"),
        ({"until_win_rate": 95}, "until_win_rate: must be a fraction between 0 and 1, not 95"),
        ({"until_win_rate": 95}, "did you mean 0.95?"),
        ({"t_max": 0}, "t_max: must be more than 0, not 0"),
        ({"lr": float("nan")}, "lr: must be more than 0, not nan"),
        ({"buffer_size": 8}, "buffer_size: 8 episodes cannot fill a batch of 32"),
        ({"critic_lr": 0}, "critic_lr: must be more than 0, not 0"),
        ({"algo": "coma"}, "coma plays batches of 32 battles (batch_size), so at most 32 of them"),
        (
            {"algo": "coma", "batch_size_run": 8, "epsilon_finish": 1.0},
            "epsilon_finish: at 1 all actions of coma stay random",
        ),
        ({"env": "skirmsh"}, "env: there is no 'skirmsh'; did you mean 'skirmish'?"),
    ],
)
def test_a_mistake_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_values(TrainConfig(), values, source="mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")
    assert message in str(error.value)


def test_numbers_may_be_written_the_short_way(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 5e-4\ngrad_norm_clip: 10\n")  # YAML 1.1 reads 5e-4 as text
    config = load_yaml(path)
    assert config.learning.lr == 0.0005
    assert config.learning.grad_norm_clip == 10.0


def test_what_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- lr\n")
    with pytest.raises(ConfigError, match="expected `name: value` lines"):
        load_yaml(path)
    path.write_text("lr: [1\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load_yaml(path)
    path.write_text("")
    assert load_yaml(path) == TrainConfig()


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no 'tund'; did you mean 'tuned'"):
        load_preset("tund")


def test_changes_leave_out_the_stop_rules() -> None:
    before = TrainConfig()
    after = with_values(before, {"t_max": 7, "minutes": 1.0, "until_win_rate": 0.5}, "test")
    assert changed_settings(before, after) == []
    assert before.sha256() == after.sha256()
    after = with_values(before, {"lr": 0.1, "seed": 2}, "test")
    assert changed_settings(before, after) == ["seed: 1 -> 2", "lr: 0.0005 -> 0.1"]
    assert before.sha256() != after.sha256()
