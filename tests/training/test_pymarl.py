"""PyMARL's configuration files: what they mean here, and how mistakes are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.pymarl_files import COMA, DEFAULT, IQL, QMIX, SC2, VDN
from training.config import ConfigError, TrainConfig, load_preset, with_values
from training.pymarl import IGNORED, ONLY, Entry, read_files, translate, with_pymarl
from training.train import choose_run, main


def write(folder: Path, **files: Any) -> list[Path]:
    """Files by name, in their order."""
    paths = [folder / f"{name}.yaml" for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    return paths


def flags(paths: list[Path], *more: str) -> list[str]:
    return [word for path in paths for word in ("--config", str(path))] + list(more)


@pytest.mark.parametrize(("algo", "content"), [("qmix", QMIX), ("vdn", VDN), ("iql", IQL)])
def test_pymarls_files_together_are_the_paper_preset(
    tmp_path: Path, algo: str, content: dict[str, Any]
) -> None:
    files = write(tmp_path, default=DEFAULT, sc2=SC2, alg=content)
    _, config, _ = choose_run(flags(files, "--runs-dir", str(tmp_path)))
    assert config == with_values(load_preset("paper"), {"algo": algo, "map_name": "3m"}, "test")


def test_comas_file_is_translated(tmp_path: Path) -> None:
    files = write(tmp_path, default=DEFAULT, sc2=SC2, coma=COMA)
    settings = translate(read_files(files)).settings
    expected = {
        "algo": "coma",
        "critic_lr": 0.0005,
        "td_lambda": 0.8,
        "batch_size_run": 8,
        "batch_size": 8,
        "buffer_size": 8,
        "gradient_steps_per_episode": 0.125,
        "epsilon_start": 0.5,
        "target_update_interval": 200,
        "env_args": {"state_last_action": False},
        "map_name": "3m",
    }
    assert {name: settings[name].value for name in expected} == expected
    config, _ = with_pymarl(load_preset("paper"), files)
    values = config.as_dict()
    assert {name: values[name] for name in expected} == expected


def test_a_gradient_step_follows_every_so_many_battles(tmp_path: Path) -> None:
    """PyMARL takes one after each batch_size_run battles; here that is two settings."""
    for n_battles, expected in ((1, (16, 1.0)), (8, (8, 0.125)), (10, (10, 0.1))):
        config, _ = with_pymarl(
            load_preset("paper"), write(tmp_path, alg={"batch_size_run": n_battles})
        )
        together, ratio = config.play.batch_size_run, config.learning.gradient_steps_per_episode
        assert (together, ratio) == expected
    own = {"batch_size_run": 8, "gradient_steps_per_episode": 0.5}  # a setting of ours, in theirs
    config, _ = with_pymarl(load_preset("paper"), write(tmp_path, alg=own))
    assert config.learning.gradient_steps_per_episode == 0.5


def test_a_mixer_without_hypernet_layers_has_one_as_in_pymarl(tmp_path: Path) -> None:
    one = {key: value for key, value in QMIX.items() if key != "hypernet_layers"}
    config, _ = with_pymarl(load_preset("paper"), write(tmp_path, beta=one))
    assert config.learning.hypernet_layers == 1
    config, _ = with_pymarl(load_preset("paper"), write(tmp_path, own={"lr": 0.001}))
    assert config.learning.hypernet_layers == 2  # no word of a mixer: the preset's


def test_later_files_go_on_top_and_flags_on_top_of_them(tmp_path: Path) -> None:
    first = {"lr": 0.1, "gamma": 0.9, "env_args": {"step_mul": 4, "move_amount": 3}}
    second = {"lr": 0.2, "use_cuda": False, "env_args": {"step_mul": 2}}
    files = write(tmp_path, first=first, second=second)
    more = ("--gamma", "0.8", "--env-args", "reward_win", "100.0", "--runs-dir", str(tmp_path))
    _, config, _ = choose_run(flags(files, "--preset", "tuned", *more))
    assert config.learning.lr == 0.2
    assert config.learning.gamma == 0.8
    assert config.learning.optimizer == "adam"  # the preset that was named
    assert config.play.device == "cpu"
    assert config.task.env_args == {"step_mul": 2, "move_amount": 3, "reward_win": 100.0}


def test_what_is_ignored_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"name": "mine", "save_model": True, "env_args": {"difficulty": "9"}, "lr": 0.1}
    files = write(tmp_path, mine=content)
    choose_run(flags(files, "--runs-dir", str(tmp_path)))
    assert capsys.readouterr().err == (
        f"{files[0]}: ignored: name, save_model, env_args.difficulty "
        "(docs/from-pymarl.md says why)\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mixr": "qmix"}, "unknown key 'mixr'; did you mean 'mixer'?"),
        ({"hidden_dim": 64}, "unknown key 'hidden_dim'; did you mean 'rnn_hidden_dim'?"),
        ({"env_args": {"step_mull": 8}}, "'env_args.step_mull'; did you mean 'env_args.step_mul'"),
        ({"obs_agent_id": False}, "obs_agent_id: False is not supported, only True (an agent's id"),
        ({"obs_agent_id": 1}, "obs_agent_id: 1 is not supported, only True"),
        ({"agent": "central_rnn"}, "agent: 'central_rnn' is not supported, only 'rnn'"),
        ({"mac": "my_mac"}, "mac: 'my_mac' is not supported, only 'basic_mac'"),
        ({"learner": "qtran_learner"}, "learner: 'qtran_learner' is not supported, only 'q_learne"),
        ({"mixer": "qtran_base"}, "mixer: 'qtran_base' is not supported, only 'qmix' or 'vdn' or "),
        ({"q_nstep": 1}, "q_nstep: 1 is not supported, only 0 (td_lambda says"),
        ({"env": "stag_hunt"}, "env: 'stag_hunt' is not supported, only 'sc2'"),
        ({"evaluate": True}, "python -m training.evaluate does it"),
        ({"checkpoint_path": "results/models"}, "--resume RUN goes on with a run of this trainer"),
        ({"use_cuda": "yes"}, "use_cuda: 'yes' is not supported, only True or False"),
        ({"action_selector": "multinomial"}, "only 'epsilon_greedy' (what a q_learner needs)"),
        (COMA | {"agent_output_type": "q"}, "only 'pi_logits' (what a coma_learner needs)"),
        ({"lr": "fast"}, "lr must be a number, not 'fast' (str)"),
        ({"batch_size_run": 2.5}, "batch_size_run must be a whole number, not 2.5 (float)"),
        ({"batch_size_run": 0}, "batch_size_run: must be more than 0"),
        ({"buffer_size": 8}, "buffer_size: 8 episodes cannot fill a batch of 32"),
        ({"env_args": {"step_mul": "8"}}, "env_args: step_mul must be a int, not '8'"),
        ({"env_args": {"obs_timestep_number": True}}, "obs_timestep_number is not supported"),
        ({"env_args": [1]}, "env_args: expected `name: value` lines"),
        ([1], "expected `name: value` lines"),
    ],
)
def test_a_mistake_names_file_key_and_what_is_supported(
    tmp_path: Path, content: Any, message: str
) -> None:
    good, bad = write(tmp_path, good={"seed": 2}, bad=content)
    with pytest.raises(ConfigError) as error:
        with_pymarl(load_preset("paper"), [good, bad])
    assert message in str(error.value)
    assert str(bad) in str(error.value).split(": ")[0]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config: qmix: No such file"):
        with_pymarl(TrainConfig(), [Path("qmix")])
    path = tmp_path / "bad.yaml"
    path.write_text("lr: [1\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not YAML"):
        with_pymarl(TrainConfig(), [path])
    path.write_text("")
    assert with_pymarl(TrainConfig(), [path])[0] == TrainConfig()


def test_a_mistake_ends_the_command_and_a_run_that_goes_on_takes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ["--runs-dir", str(tmp_path / "runs")]
    (bad,) = write(tmp_path, bad={"mac": "my_mac"})
    assert main(flags([bad], *here)) == 2
    assert f"error: {bad}: mac: 'my_mac' is not supported" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    small = VDN | {"env": "two_step", "t_max": 64, "batch_size": 8, "rnn_hidden_dim": 8}
    (good,) = write(tmp_path, good=small)
    assert main(flags([good], *here, "--actor", "local", "--name", "mine")) == 0
    said = capsys.readouterr().err
    assert f"{good}: ignored: runner, name (" in said
    assert "vdn on two_step" in said
    assert main(flags([good], *here, "--resume", "mine")) == 2
    assert f"changed: config: {good}" in capsys.readouterr().err


def test_every_key_is_in_the_document() -> None:
    page = (Path(__file__).parents[2] / "docs" / "from-pymarl.md").read_text()
    keys = {*DEFAULT, *SC2, *SC2["env_args"], *QMIX, *COMA, *ONLY, *IGNORED}
    assert [key for key in sorted(keys) if f"`{key.removeprefix('env_args.')}`" not in page] == []


def test_reading_them_does_not_need_torch() -> None:
    code = "import sys, training.pymarl; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_key_knows_its_file(tmp_path: Path) -> None:
    first, second = write(tmp_path, a={"lr": 0.1, "seed": 3}, b={"lr": 0.2})
    entries = read_files([first, second])
    assert entries == {"lr": Entry(0.2, str(second)), "seed": Entry(3, str(first))}
