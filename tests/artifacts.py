"""Artifacts with seeded random weights, written without torch, and the same policy in plain numpy.

The numpy policy is written from the network's definition and knows nothing of ONNX, so that it can
stand beside the graph as a second opinion.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from training.onnx_graph import build_graph

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Dims:
    """Sizes of a policy; 3s5z's unless said."""

    n_agents: int = 8
    n_actions: int = 14
    obs_dim: int = 128
    hidden_dim: int = 64


SMALL = Dims(n_agents=3, n_actions=5, obs_dim=7, hidden_dim=6)


class Step:
    """One row, as it goes in and comes out."""

    def __init__(self, dims: Dims, random: np.random.Generator) -> None:
        self.obs: Array = random.uniform(-1, 1, dims.obs_dim).astype(np.float32)
        self.avail_actions = random.random(dims.n_actions) < 0.6
        self.avail_actions[random.integers(dims.n_actions)] = True
        self.last_action = int(random.integers(-1, dims.n_actions))
        self.agent_id = int(random.integers(dims.n_agents))
        self.hidden: Array = random.uniform(-1, 1, dims.hidden_dim).astype(np.float32)


class Policy:
    """A DRQN with random weights."""

    def __init__(self, dims: Dims = SMALL, seed: int = 0) -> None:
        self.dims = dims
        random = np.random.default_rng(seed)
        hidden, inputs = dims.hidden_dim, dims.obs_dim + dims.n_actions + dims.n_agents
        shapes = {
            "fc1.weight": (hidden, inputs),
            "fc1.bias": (hidden,),
            "rnn.weight_ih": (3 * hidden, hidden),
            "rnn.weight_hh": (3 * hidden, hidden),
            "rnn.bias_ih": (3 * hidden,),
            "rnn.bias_hh": (3 * hidden,),
            "fc2.weight": (dims.n_actions, hidden),
            "fc2.bias": (dims.n_actions,),
        }
        # Wider than a fresh network's, biases apart, so that memory and ids move the choice.
        self.weights: dict[str, Array] = {
            name: random.normal(0, 0.1 if len(shape) == 1 else 2 / np.sqrt(shape[1]), shape).astype(
                np.float32
            )
            for name, shape in shapes.items()
        }

    @property
    def n_parameters(self) -> int:
        return sum(weight.size for weight in self.weights.values())

    def step(
        self, obs: Array, avail_actions: Any, last_action: int, agent_id: int, hidden: Array
    ) -> tuple[int, Array, Array]:
        """(action, q_values [U], next_hidden [H]), computed in float64."""
        dims, weights = self.dims, self.weights
        one_hot_action = np.zeros(dims.n_actions)
        if last_action >= 0:
            one_hot_action[last_action] = 1
        one_hot_agent = np.zeros(dims.n_agents)
        one_hot_agent[agent_id] = 1
        inputs = np.concatenate([obs, one_hot_action, one_hot_agent])
        x = np.maximum(weights["fc1.weight"] @ inputs + weights["fc1.bias"], 0)
        from_x = weights["rnn.weight_ih"] @ x + weights["rnn.bias_ih"]
        from_h = weights["rnn.weight_hh"] @ hidden.astype(np.float64) + weights["rnn.bias_hh"]
        x_r, x_z, x_n = np.split(from_x, 3)
        h_r, h_z, h_n = np.split(from_h, 3)
        r, z = _sigmoid(x_r + h_r), _sigmoid(x_z + h_z)
        n = np.tanh(x_n + r * h_n)
        next_hidden = (1 - z) * n + z * hidden
        q_values = weights["fc2.weight"] @ next_hidden + weights["fc2.bias"]
        action = int(np.argmax(np.where(avail_actions, q_values, -np.inf)))
        return action, q_values.astype(np.float32), next_hidden.astype(np.float32)


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(x / 2))


def golden_rows(policy: Policy, n: int = 8) -> list[dict[str, Any]]:
    random = np.random.default_rng(99)
    rows = []
    for _ in range(n):
        step = Step(policy.dims, random)
        action, q_values, next_hidden = policy.step(**vars(step))
        rows.append(
            {name: np.asarray(value).tolist() for name, value in vars(step).items()}
            | {
                "action": action,
                "q_values": q_values.tolist(),
                "next_hidden": next_hidden.tolist(),
            }
        )
    return rows


def manifest(policy: Policy, name: str, version: int) -> dict[str, Any]:
    """A manifest without `files` and `golden`."""
    dims = policy.dims
    return {
        "format_version": 1,
        "name": name,
        "version": version,
        "map": "3s5z",
        "environment": {"name": "skirmish", "layout_sha256": "ab" * 32},
        "algorithm": "qmix",
        "q_values": "q_values",
        "dims": vars(dims),
        "episode_limit": 150,
        "agents": [{"id": agent, "unit_type": "stalker"} for agent in range(dims.n_agents)],
        "training": {
            "run": "random",
            "preset": "none",
            "seed": 0,
            "env_steps": 0,
            "episodes": 0,
            "gradient_steps": 0,
            "win_rate": 0.25,
            "win_rate_ci95": [0.0, 0.5],
            "win_rate_episodes": 4,
            "win_rate_seed": 0,
            "config_sha256": "cd" * 32,
            "command": "none",
            "software": {"unmix": "0.1.0"},
        },
        "parameters": policy.n_parameters,
    }


def write_artifact(
    models: Path, policy: Policy | None = None, name: str = "tiny", version: int = 1
) -> Path:
    """Write `models/name/version/`; returns that folder."""
    policy = policy or Policy()
    summary = manifest(policy, name, version)
    graph = build_graph(
        policy.weights,
        policy.dims.n_agents,
        policy.dims.n_actions,
        {"unmix.manifest": json.dumps(summary)},
    )
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    write_model(folder, graph, summary | {"golden": golden(policy)})
    return folder


def golden(policy: Policy) -> dict[str, Any]:
    return {"tolerance": 1e-5, "rows": golden_rows(policy)}


class Serializable(Protocol):
    """A protobuf message, or bytes in its place."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


def write_model(folder: Path, graph: Serializable, manifest: dict[str, Any]) -> None:
    """Write the model's file and a manifest that describes it, whatever they hold."""
    files = {"model.onnx": graph.SerializeToString(), "MODEL_CARD.md": b"# Random weights\n"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    described = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in files.items()
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": described}))


def write_digest(folder: Path) -> None:
    """Write the manifest's hash beside it, as export does."""
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    (folder / "manifest.json.sha256").write_text(f"{digest}  manifest.json\n")
