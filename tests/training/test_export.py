"""Exporting an agent: what is written, what is refused, and that it is all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from serving.models.agent_model import AgentModel
from serving.models.manifest import METADATA_KEY, parse_manifest
from tests.training.episodes import small_info
from training import checkpoint, export
from training.config import load_preset, with_values
from training.envs import make_env
from training.envs.base import BatchedEnv
from training.export import Command, ExportError, Provenance, export_agent, main, training_command
from training.networks.agent import DRQN
from training.onnx_graph import build_graph
from training.parity import check_parity
from training.run_folder import RunFolder
from training.train import choose_run
from training.types import EnvInfo, Observation, Transition

PROVENANCE = Provenance(
    run="a-run",
    preset="paper",
    seed=3,
    env_steps=1000,
    episodes=500,
    gradient_steps=400,
    win_rate=0.975,
    win_rate_ci95=(0.95, 0.99),
    win_rate_episodes=1000,
    win_rate_seed=12345,
    config_sha256="ab" * 32,
    command="python -m training.train --seed 3",
)


class MadeUpEnv:
    """Battles of random observations; slot i's lasts 3 + i steps."""

    def __init__(self, n_envs: int, info: EnvInfo) -> None:
        self.info, self.n_envs, self.device = info, n_envs, torch.device("cpu")
        self._random = torch.Generator().manual_seed(0)
        self._step = 0

    def reset(
        self, mask: torch.Tensor | None = None, battle_ids: torch.Tensor | None = None
    ) -> Observation:
        self._step = 0
        return self._observe()

    def step(self, actions: torch.Tensor) -> Transition:
        self._step += 1
        ended = torch.arange(self.n_envs) + 3 <= self._step
        nobody = torch.zeros(self.n_envs, dtype=torch.int64)
        return Transition(
            self._observe(), torch.zeros(self.n_envs), ended, ended & False, ended, nobody, nobody
        )

    def _observe(self) -> Observation:
        shape = (self.n_envs, self.info.n_agents)
        avail = torch.rand(*shape, self.info.n_actions, generator=self._random) < 0.5
        avail[..., 0] = True
        obs = torch.randn(*shape, self.info.obs_dim, generator=self._random)
        return Observation(obs, torch.zeros(self.n_envs, self.info.state_dim), avail)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


def make_envs(n_envs: int) -> BatchedEnv:
    return MadeUpEnv(n_envs, small_info())


def make_agent(seed: int = 0) -> DRQN:
    torch.manual_seed(seed)
    info = small_info()
    return DRQN(info.obs_dim, info.n_actions, info.n_agents, hidden_dim=16).requires_grad_(False)


def do_export(models: Path, agent: DRQN | None = None, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "weights": (agent or make_agent()).state_dict(),
        "info": small_info(),
        "algorithm": "vdn",
        "provenance": PROVENANCE,
        "make_envs": make_envs,
        "models_dir": models,
        "name": "small",
    }
    return export_agent(**settings | changes)


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(b"a picture")
    models = tmp_path / "models"
    folder = do_export(models, curve=tmp_path / "curve.png")
    assert folder == models / "small" / "1"
    digest = "manifest.json.sha256"
    names = {"model.onnx", "manifest.json", digest, "MODEL_CARD.md", "curve.png"}
    assert everything_in(models) == {
        "small",
        "small/config.pbtxt",
        "small/1",
        *(f"small/1/{name}" for name in names),
    }
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    assert set(manifest.files) == names - {"manifest.json", digest}
    hashed = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert (folder / digest).read_text() == f"{hashed}  manifest.json\n"
    for name, described in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (described.size, described.sha256) == (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
    assert manifest.algorithm == "vdn"
    assert manifest.parameters == sum(p.numel() for p in make_agent().parameters())
    assert [agent.unit_type for agent in manifest.agents] == ["marine"] * 3
    assert manifest.training.win_rate == 0.975
    assert set(manifest.training.software) == {"unmix", "torch", "onnx", "onnxruntime", "numpy"}
    model = onnx.load(folder / "model.onnx")
    carried = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert carried == {METADATA_KEY: manifest.summary()}
    card = (folder / "MODEL_CARD.md").read_text()
    assert "**97.5%** (95.0% to 99.0%, 95 % interval)" in card
    assert "![Learning curve](curve.png)" in card
    assert "trained with VDN in" in card
    assert "| q_values | float32 [N, 5] | not masked |" in card


def test_golden_rows_are_steps_of_one_episode_that_the_service_reproduces(tmp_path: Path) -> None:
    folder = do_export(tmp_path)
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    rows = manifest.golden.rows
    assert len(rows) == 8
    assert rows[0].last_action == -1
    assert not any(rows[0].hidden)
    assert all(row.last_action >= 0 and any(row.hidden) for row in rows[1:])
    assert {row.agent_id for row in rows} == {0, 1, 2}
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for row in rows:
        action, q_values, next_hidden = session.run(
            ["action", "q_values", "next_hidden"],
            {
                "obs": np.array([row.obs], np.float32),
                "avail_actions": np.array([row.avail_actions]),
                "last_action": np.array([row.last_action]),
                "agent_id": np.array([row.agent_id]),
                "hidden": np.array([row.hidden], np.float32),
            },
        )
        assert action[0] == row.action
        np.testing.assert_allclose(q_values[0], row.q_values, atol=manifest.golden.tolerance)
        np.testing.assert_allclose(next_hidden[0], row.next_hidden, atol=manifest.golden.tolerance)
    AgentModel((folder / "model.onnx").read_bytes(), manifest)


def test_each_export_is_the_next_version(tmp_path: Path) -> None:
    (tmp_path / "small" / "7").mkdir(parents=True)
    first = do_export(tmp_path / "other")
    (tmp_path / "small" / "7").rmdir()
    first.rename(tmp_path / "small" / "7")
    assert do_export(tmp_path) == tmp_path / "small" / "8"
    assert do_export(tmp_path, make_agent(1)) == tmp_path / "small" / "9"


def test_triton_is_told_the_sizes_and_who_keeps_the_memory(tmp_path: Path) -> None:
    do_export(tmp_path)
    config = (tmp_path / "small" / "config.pbtxt").read_text()
    assert 'name: "small"\nplatform: "onnxruntime_onnx"' in config
    assert '{ name: "obs" data_type: TYPE_FP32 dims: [ 6 ] }' in config
    assert 'input_name: "hidden"\n      output_name: "next_hidden"' in config
    assert config.count("dims: [ 16 ]") == 2
    assert config.count("{") == config.count("}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    agent = make_agent()
    agent.rnn.weight_hh[3, 4] = value
    with pytest.raises(ExportError, match=r"rnn\.weight_hh holds values that are not finite"):
        do_export(tmp_path / "models", agent)
    assert not (tmp_path / "models").exists()


def test_a_graph_that_plays_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_slightly_wrong(weights: Any, *args: Any) -> onnx.ModelProto:
        return build_graph(
            weights | {"rnn.bias_hh": weights["rnn.bias_hh"] + np.float32(1e-3)}, *args
        )

    monkeypatch.setattr(export, "build_graph", build_slightly_wrong)
    with pytest.raises(ExportError, match="torch and onnxruntime disagree at step 0, battle 0"):
        do_export(tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_whole_episodes_are_compared_each_to_its_own_end() -> None:
    agent = make_agent()
    weights = {name: value.numpy() for name, value in agent.state_dict().items()}
    model = build_graph(weights, 3, 5, {}).SerializeToString()
    parity = check_parity(agent, model, make_envs(4))
    assert parity.episodes == 4
    assert parity.rows == 3 * (3 + 4 + 5 + 6)
    assert 0 < parity.max_difference <= 1e-5


def test_another_observation_layout_is_refused(tmp_path: Path) -> None:
    info = EnvInfo(**vars(small_info()) | {"layout_sha256": "1" * 64})
    with pytest.raises(ExportError, match="other observations than when"):
        do_export(tmp_path / "models", info=info)
    assert not (tmp_path / "models").exists()


def test_weights_of_another_environment_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the weights do not fit small"):
        do_export(tmp_path, DRQN(obs_dim=9, n_actions=5, n_agents=3, hidden_dim=16))


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "new\nline"])
def test_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="is no model name"):
        do_export(tmp_path, name=name)
    assert everything_in(tmp_path) == set()


def test_a_network_of_other_sizes_needs_another_name(tmp_path: Path) -> None:
    do_export(tmp_path)
    before = everything_in(tmp_path)
    info = small_info()
    wider = DRQN(info.obs_dim, info.n_actions, info.n_agents, hidden_dim=32)
    with pytest.raises(ExportError, match="choose another --name"):
        do_export(tmp_path, wider)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("version_before", [False, True])
@pytest.mark.parametrize("step", ["write", "flush", "rename"])
def test_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, version_before: bool
) -> None:
    models = tmp_path / "deep" / "models"
    if version_before:
        do_export(models)
    before = everything_in(tmp_path)
    full = OSError(28, "No space left on device")
    calls = iter(range(100))

    def fail_later(*_: object) -> None:
        if next(calls) == (2 if step == "flush" else 0):
            raise full

    if step == "write":
        monkeypatch.setattr(export, "_write", fail_later)
    elif step == "flush":
        monkeypatch.setattr(os, "fsync", fail_later)
    else:
        monkeypatch.setattr(Path, "rename", fail_later)
    with pytest.raises(ExportError, match="cannot be published: No space left on device"):
        do_export(models)
    assert everything_in(tmp_path) == before


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        do_export(tmp_path / "models")
    assert everything_in(tmp_path) == set()


def test_a_version_that_somebody_else_published_first_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_export(tmp_path)
    theirs = (tmp_path / "small" / "1" / "manifest.json").read_bytes()
    monkeypatch.setattr(export, "_versions", lambda folder: [])
    with pytest.raises(ExportError, match=r"small/1: cannot be published"):
        do_export(tmp_path, make_agent(1))
    assert (tmp_path / "small" / "1" / "manifest.json").read_bytes() == theirs
    assert everything_in(tmp_path / "small") == {
        "config.pbtxt",
        "1",
        "1/model.onnx",
        "1/manifest.json",
        "1/manifest.json.sha256",
        "1/MODEL_CARD.md",
    }


def make_run(runs_dir: Path) -> RunFolder:
    """A run's folder with a best agent, as the trainer leaves it."""
    config = with_values(load_preset("two_step"), {"seed": 5, "lr": 0.01, "t_max": 64}, "test")
    folder = RunFolder(runs_dir / "a-run")
    folder.checkpoints.mkdir(parents=True)
    folder.save_config(config)
    info = make_env("two_step", None, 1).info
    torch.manual_seed(0)
    agent = DRQN(info.obs_dim, info.n_actions, info.n_agents, config.learning.rnn_hidden_dim)
    counters: dict[str, float | None] = {
        "env_steps": 64,
        "episodes": 32,
        "gradient_steps": 7,
        "win_rate": None,
        "win_rate_episodes": 0,
    }
    state = checkpoint.agent_state(agent.state_dict(), info, config, counters)
    checkpoint.save(state, folder.best)
    return folder


def test_a_run_is_exported_by_its_name(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    folder = main(
        Command(
            "a-run", "game", models=tmp_path / "models", episodes=20, runs_dir=tmp_path / "runs"
        )
    )
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    assert (manifest.name, manifest.map, manifest.algorithm) == ("game", "two_step", "qmix")
    training = manifest.training
    assert (training.run, training.seed, training.gradient_steps) == ("a-run", 5, 7)
    assert (training.win_rate_episodes, training.win_rate_seed) == (20, 12345)
    assert training.win_rate in (0.0, 1.0)  # the game draws nothing at random
    assert training.preset == "two_step"


def test_no_battles_measure_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    with pytest.raises(ExportError, match="--episodes 0 measures nothing"):
        main(Command("a-run", "game", tmp_path / "m", episodes=0, runs_dir=tmp_path / "runs"))


def test_battles_of_the_runs_own_seed_prove_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    with pytest.raises(ExportError, match="--seed 5 is the run's own"):
        main(Command("a-run", "game", tmp_path / "models", seed=5, runs_dir=tmp_path / "runs"))


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("two_step", {"seed": 5, "lr": 0.01, "t_max": 64}),
        ("tuned", {"map_name": "8m", "double_q": False, "minutes": 7.5, "batch_size_run": 32}),
        ("coma", {"map_name": "3m", "critic_lr": 0.001}),
        ("paper", {"map_name": "3s5z", "env_args": {"reward_sparse": True}}),
    ],
)
def test_the_manifests_command_trains_with_the_runs_settings(
    preset: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = with_values(load_preset(preset), changes, "test")
    if not config.task.map_name:
        config = with_values(config, {"map_name": "two_step"}, "test")
    nearest, command = training_command(config)
    assert nearest == preset
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "training.train"]
    _, parsed, _ = choose_run([*words[3:], "--runs-dir", str(tmp_path)])
    assert parsed == config


def test_the_command_line_tells_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.export", "nowhere", "--name", "game"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: nowhere: no run here, nor in runs\n"
