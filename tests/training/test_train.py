"""The command line: what it says, and how it refuses."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.algorithms import ALGORITHMS
from training.checkpoint import load_agent
from training.config import load_preset, with_values
from training.envs import two_step
from training.run_folder import RunFolder
from training.train import choose_device, choose_run, main


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """The command takes the signals over; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


SMALL = ["--preset", "two_step", "--env-steps", "64", "--actor", "local"]


def test_flags_go_on_top_of_the_preset(tmp_path: Path) -> None:
    flags = ["--runs-dir", str(tmp_path), "--map", "8m", "--algo", "vdn", "--parallel", "16"]
    flags += ["--until-win-rate", "0.95", "--env-steps", "1000", "--env-args", "step_mul", "4"]
    folder, config, goes_on = choose_run(flags)
    assert folder.path == tmp_path / "8m-vdn-1"
    assert not goes_on
    assert not folder.path.exists()
    expected = {"map_name": "8m", "algo": "vdn", "batch_size_run": 16, "until_win_rate": 0.95}
    expected |= {"t_max": 1000, "env_args": {"step_mul": 4}}
    assert config == with_values(load_preset("tuned"), expected, "test")


def test_an_algorithm_brings_its_preset_unless_one_is_named(tmp_path: Path) -> None:
    here = ["--runs-dir", str(tmp_path)]
    for flags, preset, values in (
        (["--algo", "coma"], "coma", {}),
        (["--preset", "coma"], "coma", {}),
        (["--algo=coma", "--lr", "0.1"], "coma", {"lr": 0.1}),
        (["--algo", "qmix_ns"], "tuned", {"algo": "qmix_ns"}),
        (["--algo", "iql", "--preset", "paper"], "paper", {"algo": "iql"}),
        (
            ["--algo", "coma", "--preset", "tuned", "--parallel", "32"],
            "tuned",
            {"algo": "coma", "batch_size_run": 32},
        ),
    ):
        _, config, _ = choose_run([*here, *flags])
        expected = {"map_name": "3s5z"} | values
        assert config == with_values(load_preset(preset), expected, "test"), flags


def test_the_usual_map_is_written_down(tmp_path: Path) -> None:
    folder, config, _ = choose_run(["--runs-dir", str(tmp_path)])
    assert config.task.map_name == "3s5z"
    assert folder.path.name == "3s5z-qmix-1"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--map", "3s5x"], "3s5z"),
        (["--env", "skirmsh"], "did you mean 'skirmish'?"),
        (["--env-args", "step_mull", "4"], "step_mul"),
        (["--preset", "papers"], "did you mean 'paper'?"),
        (["--until-win-rate", "95"], "did you mean 0.95?"),
        (["--parallel", "0"], "batch_size_run: must be more than 0"),
        (["--resume", "nowhere"], "nowhere: no run here"),
        (["--env", "two_step", "--map", "3m"], "one map, 'two_step'"),
        (["--algo", "comma"], "algo: there is no 'comma'; did you mean 'coma'?"),
        (["--algo", "coma", "--preset", "tuned"], "at most 32 of them in parallel, not 128"),
        (["--algo", "coma", "--parallel", "9"], "coma plays batches of 8 battles (batch_size)"),
        (["--device", "cuda"], "torch finds no cuda device here"),
    ],
)
def test_a_mistake_ends_it_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    if "cuda" in flags and choose_device("auto") == "cuda":
        pytest.skip("there is a cuda device")
    try:
        code: object = main([*flags, "--runs-dir", str(tmp_path / "runs")])
    except SystemExit as stop:  # tyro ends the process for values it parses itself
        code = stop.code
    assert code == 2
    printed = capfd.readouterr()
    assert message in " ".join((printed.out + printed.err).replace("│", " ").split())
    assert "Traceback" not in printed.err
    assert not (tmp_path / "runs").exists()


def test_a_run_that_goes_on_keeps_its_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ["--runs-dir", str(tmp_path)]
    assert main([*SMALL, *here, "--name", "mine"]) == 0
    said = capsys.readouterr().err
    assert "two_step" in said
    assert "replay ratio 32: 1 gradient steps per episode, each on 32 episodes" in said
    assert "500 episodes" in said
    assert main([*SMALL, *here, "--name", "mine"]) == 2
    assert "there is a run already" in capsys.readouterr().err
    for change, named in (
        (["--lr", "0.5"], "lr: 0.002 -> 0.5"),
        (["--preset", "paper"], "preset: paper"),
        (["--name", "other"], "name: other"),
    ):
        assert main(["--resume", "mine", *here, *change]) == 2
        assert named in capsys.readouterr().err
    assert main(["--resume", "mine", *here, "--env-steps", "128", "--minutes", "5"]) == 0
    config = RunFolder(tmp_path / "mine").load_config()
    assert (config.stop.t_max, config.stop.minutes) == (128, 5.0)


def test_a_run_folder_that_lost_its_log_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ["--runs-dir", str(tmp_path), "--log-interval", "64"]
    assert main([*SMALL, *here, "--name", "mine"]) == 0
    RunFolder(tmp_path / "mine").metrics.unlink()
    assert main(["--resume", "mine", *here[:2]]) == 1
    assert "metrics.jsonl: lost lines that the checkpoint counts on" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_said_and_the_exit_code_is_not_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_step, "PAYOFF_2B", ((math.nan, 1.0), (1.0, 8.0)))
    assert main([*SMALL, "--env-steps", "640", "--runs-dir", str(tmp_path), "--name", "bad"]) == 1
    said = capsys.readouterr().err
    assert "error: gradient step 1: loss nan" in said
    assert f"the last good checkpoint is in {tmp_path / 'bad' / 'checkpoints'}" in said
    assert load_agent(tmp_path / "bad", "last").gradient_steps == 0


def test_help_explains_every_setting() -> None:
    flags = [sys.executable, "-m", "training.train", "--help"]
    text = subprocess.run(flags, capture_output=True, text=True, check=True).stdout
    names = [name.replace("_", "-") for name in load_preset("paper").as_dict()]
    missing = [name for name in names if f"--{name}" not in text]
    assert missing == []
    for flag in ("--map", "--env-steps", "--parallel", "--resume", "--preset"):
        assert flag in text
    words = " ".join(text.replace("│", " ").split())
    for name, algorithm in ALGORITHMS.items():
        assert f"{name}: {algorithm.summary}" in words


def test_algorithms_can_be_listed_without_torch() -> None:
    code = "import sys, training.algorithms, training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_torch_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "from training.train import main\n"
        "sys.exit(main(['--map', '3m']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("training needs the `train` extra: pip install 'unmix[train]'")
    assert done.stderr.count("\n") == 1
