"""Write a run's agent into a model repository: `python -m training.export RUN --name 3s5z`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import onnx
import torch
import tyro

from training.checkpoint import CheckpointError, TrainedAgent, load_agent
from training.config import PRESETS, TrainConfig, load_preset
from training.envs import GAMES, GameError, at_once, make_env
from training.envs.base import BatchedEnv
from training.graph_policy import GraphPolicy
from training.metrics import wilson_interval
from training.model_card import model_card, triton_config
from training.networks.agent import DRQN
from training.onnx_graph import build_graph, parameter_count
from training.parity import TOLERANCE, Parity, ParityError, check_parity
from training.rollout import play_battles
from training.run_folder import RunFolderError, find_run_folder
from training.types import EnvInfo

PARITY_EPISODES = 16
EVALUATION_ENVS = 128
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SOFTWARE = ("unmix", "torch", "onnx", "onnxruntime", "numpy")
# The flags of `training.train` that have a plainer name than their setting.
PLAIN_FLAGS = {"map_name": "map", "t_max": "env_steps", "batch_size_run": "parallel"}
METADATA_KEY = "unmix.manifest"


class ExportError(RuntimeError):
    """The agent cannot be exported; the message says why, and nothing was written."""


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from and what they have shown; the manifest's `training`."""

    run: str
    preset: str
    seed: int
    env_steps: int
    episodes: int
    gradient_steps: int
    win_rate: float
    win_rate_ci95: tuple[float, float]
    win_rate_episodes: int
    win_rate_seed: int
    config_sha256: str
    command: str


def export_agent(
    weights: Mapping[str, torch.Tensor],
    info: EnvInfo,
    algorithm: str,
    provenance: Provenance,
    make_envs: Callable[[int], BatchedEnv],
    models_dir: Path,
    name: str,
    curve: Path | None = None,
) -> Path:
    """Write the next version of `models_dir/name`, whole or not at all.

    Args:
        weights: the agent network's state dict.
        info: of the environment it was trained in.
        make_envs: E -> the environment with E battles; parity is checked on a few whole ones.
        curve: a PNG to put beside the model.

    Returns:
        The version's folder.

    Raises:
        ExportError: the weights are not finite, do not fit, or do not play in onnxruntime as they
            do in torch; the name is no name; or the repository holds another network under it.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise ExportError(f"{name!r} is no model name; it must match {NAME_PATTERN.pattern}")
    agent = _load(weights, info)
    folder = models_dir / name
    versions = _versions(folder)
    summary = _summary(agent, info, algorithm, provenance, name, max(versions, default=0) + 1)
    _require_same_dims(folder, versions, summary)
    graph = _graph(agent, {METADATA_KEY: json.dumps(summary)})
    if parameter_count(graph) != summary["parameters"]:
        raise ExportError("the graph does not hold exactly the agent's parameters")
    model = graph.SerializeToString()
    parity = _play(agent, model, make_envs(PARITY_EPISODES), info)
    files = {"model.onnx": model}
    if curve is not None and curve.is_file():
        files["curve.png"] = curve.read_bytes()
    sentence = (
        f"Checked over {parity.episodes} whole battles, {parity.rows:,} steps of single agents: "
        f"torch and onnxruntime chose the same actions, and none of `q_values` differed by more "
        f"than {parity.max_difference:.1e}."
    )
    files["MODEL_CARD.md"] = model_card(summary, sentence, "curve.png" in files).encode()
    manifest = summary | {
        "files": {
            file: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for file, content in files.items()
        },
    }
    golden = {"tolerance": TOLERANCE, "rows": parity.golden_rows}
    text = _manifest_text(manifest, golden).encode()
    files["manifest.json"] = text
    # The one file that the manifest cannot describe; `sha256sum -c` reads this too.
    digest = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    files["manifest.json.sha256"] = digest.encode()
    return publish(files, triton_config(summary).encode(), folder, summary["version"])


def _load(weights: Mapping[str, torch.Tensor], info: EnvInfo) -> DRQN:
    """The network, on the CPU, with finite weights."""
    agent = DRQN(info.obs_dim, info.n_actions, info.n_agents, len(weights["fc1.bias"]))
    try:
        agent.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ExportError(f"the weights do not fit {info.map_name}: {error}") from error
    agent.requires_grad_(False)
    for key, value in agent.state_dict().items():
        if not value.isfinite().all():
            raise ExportError(f"{key} holds values that are not finite")
    return agent


def _graph(agent: DRQN, metadata: Mapping[str, str]) -> onnx.ModelProto:
    weights = {key: value.numpy() for key, value in agent.state_dict().items()}
    return build_graph(weights, agent.n_agents, agent.n_actions, metadata)


def _summary(
    agent: DRQN, info: EnvInfo, algorithm: str, provenance: Provenance, name: str, version: int
) -> dict[str, Any]:
    """The manifest without `files` and `golden`, which the ONNX file carries too."""
    training = dataclasses.asdict(provenance)
    training["win_rate_ci95"] = list(provenance.win_rate_ci95)
    software = {package: importlib.metadata.version(package) for package in SOFTWARE}
    if info.game_version:
        software["StarCraft II"] = info.game_version
    return {
        "format_version": 1,
        "name": name,
        "version": version,
        "map": info.map_name,
        "environment": {"name": info.name, "layout_sha256": info.layout_sha256},
        "algorithm": algorithm,
        "q_values": "q_values",
        "dims": {
            "n_agents": info.n_agents,
            "n_actions": info.n_actions,
            "obs_dim": info.obs_dim,
            "hidden_dim": agent.hidden_dim,
        },
        "episode_limit": info.episode_limit,
        "agents": [{"id": i, "unit_type": unit} for i, unit in enumerate(info.unit_types)],
        "training": training | {"software": software},
        "parameters": sum(parameter.numel() for parameter in agent.parameters()),
    }


def _manifest_text(manifest: dict[str, Any], golden: dict[str, Any]) -> str:
    """JSON for people, but for the thousands of golden numbers, which share one line."""
    readable = json.dumps(manifest, indent=1, allow_nan=False).removesuffix("\n}")
    return f'{readable},\n "golden": {json.dumps(golden, allow_nan=False)}\n}}\n'


def _play(agent: DRQN, model: bytes, env: BatchedEnv, info: EnvInfo) -> Parity:
    if env.info.layout_sha256 != info.layout_sha256:
        raise ExportError(
            f"{info.map_name} shows its agents other observations than when this one was trained"
        )
    try:
        return check_parity(agent, model, env)
    except ParityError as error:
        raise ExportError(str(error)) from error


def _versions(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdigit()]


def _require_same_dims(folder: Path, versions: list[int], summary: dict[str, Any]) -> None:
    """One config.pbtxt describes all versions of a name."""
    if not versions:
        return
    manifest = folder / str(max(versions)) / "manifest.json"
    try:
        dims = json.loads(manifest.read_text())["dims"]
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{manifest}: cannot read the version before this one") from error
    if dims != summary["dims"]:
        raise ExportError(
            f"{folder} holds a network of other sizes ({dims}); choose another --name"
        )


def publish(files: Mapping[str, bytes], config: bytes, folder: Path, version: int) -> Path:
    """Write `folder/version` aside and rename it, so that no reader sees a part of it.

    Args:
        config: of config.pbtxt, beside the versions.

    Raises:
        ExportError: the disk is full, the folder cannot be written, or somebody else was faster;
            nothing is left behind.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    target, config_path = folder / str(version), folder / "config.pbtxt"
    had_config = config_path.exists()
    aside: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=folder))
        for name, content in files.items():
            _write(aside / name, content)
        _write(aside / ".config", config)
        (aside / ".config").replace(config_path)
        aside.chmod(0o755)  # mkdtemp's folders are for their owner alone
        _flush_folder(aside)
        aside.rename(target)
        _flush_folder(folder)
    except BaseException as error:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            if not had_config:
                config_path.unlink(missing_ok=True)
            for path in made:  # innermost first
                path.rmdir()
        if isinstance(error, OSError):
            problem = error.strerror or str(error)
            raise ExportError(f"{target}: cannot be published: {problem}") from error
        raise
    return target


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Command:
    """Export a run's agent network as ONNX, checked and ready to be served.

    Example: python -m training.export 3s5z-qmix-1 --name 3s5z
    """

    run: Annotated[str, tyro.conf.Positional]
    """The run, by folder or by name."""
    name: str
    """The model's name; each export is its next version."""
    models: Path = Path("models")
    """The model repository."""
    checkpoint: Literal["best", "last"] = "best"
    """The agent that won most, or the newest."""
    episodes: int = 1000
    """Battles played greedily to measure the win rate that the manifest states."""
    seed: int = 12345
    """Of those battles; it must not be the run's own."""
    runs_dir: Path = Path("runs")
    """Where runs are looked up by name."""


def main(command: Command) -> Path:
    """Raises: ExportError, GameError, CheckpointError, RunFolderError."""
    folder = find_run_folder(command.runs_dir, command.run)
    trained = load_agent(folder.path, command.checkpoint)
    task = trained.config.task
    if command.seed == task.seed:
        raise ExportError(f"--seed {command.seed} is the run's own; measure on other battles")

    def make_envs(n_envs: int) -> BatchedEnv:
        return make_env(
            task.env, task.map_name, n_envs, command.seed, "cpu", False, **task.env_args
        )

    def make_parity_envs(n_envs: int) -> BatchedEnv:
        """Of a game Skirmish shows the same entries, and it never breaks off."""
        if task.env not in GAMES:
            return make_envs(n_envs)
        from training.envs.smac.options import without_the_game

        env_args = without_the_game(task.env_args)
        return make_env("skirmish", task.map_name, n_envs, command.seed, **env_args)

    return export_agent(
        trained.weights,
        trained.info,
        task.algo,
        measured(trained, folder.path.name, make_envs, command.episodes, command.seed),
        make_parity_envs,
        command.models,
        command.name,
        folder.curve,
    )


def measured(
    trained: TrainedAgent,
    run: str,
    make_envs: Callable[[int], BatchedEnv],
    episodes: int,
    seed: int,
) -> Provenance:
    """The run's history, and the greedy win rate that its graph reaches over `episodes` battles:
    the same ones that `training.evaluate` plays with this seed."""
    if episodes < 1:
        raise ExportError(f"--episodes {episodes} measures nothing")
    agent = _load(trained.weights, trained.info)
    env = make_envs(min(episodes, at_once(trained.info.name, EVALUATION_ENVS)))
    policy = GraphPolicy(_graph(agent, {}).SerializeToString(), agent.hidden_dim, env)
    battles = play_battles(env, policy, range(episodes))
    wins = sum(battle.battle_won for battle in battles)
    preset, command = training_command(trained.config)
    return Provenance(
        run=run,
        preset=preset,
        seed=trained.config.task.seed,
        env_steps=trained.env_steps,
        episodes=trained.episodes,
        gradient_steps=trained.gradient_steps,
        win_rate=wins / episodes,
        win_rate_ci95=wilson_interval(wins, episodes),
        win_rate_episodes=episodes,
        win_rate_seed=seed,
        config_sha256=trained.config.sha256(),
        command=command,
    )


def training_command(config: TrainConfig) -> tuple[str, str]:
    """The preset nearest to a run's settings, and a command that trains with them."""
    settings = config.as_dict()
    changes: dict[str, dict[str, Any]] = {}
    for path in sorted(PRESETS.glob("*.yaml")):
        preset = load_preset(path.stem).as_dict()
        changes[path.stem] = {k: v for k, v in settings.items() if v != preset[k]}
    nearest = min(changes, key=lambda preset: len(changes[preset]))
    stated = {"map_name": settings["map_name"], "seed": settings["seed"]} | changes[nearest]
    flags = [_flag(key, value) for key, value in stated.items()]
    return nearest, " ".join(["python -m training.train", f"--preset {nearest}", *flags])


def _flag(key: str, value: Any) -> str:
    flag = PLAIN_FLAGS.get(key, key).replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    parts = [part for pair in value.items() for part in pair] if key == "env_args" else [value]
    return " ".join([f"--{flag}", *(shlex.quote(str(part)) for part in parts)])


if __name__ == "__main__":
    try:
        print(main(tyro.cli(Command)))
    except (ExportError, GameError, CheckpointError, RunFolderError) as error:
        sys.exit(f"error: {error}")
