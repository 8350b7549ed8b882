"""Anything that can play: scripted policies, a run's agent, an exported model, a served one.

`open_policy` turns the words of a command line into one. The served ones are played as they would
be in the field: every unit of every battle has its own connection and sends its own observation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serving.client import Memory, Units, get_model
from serving.client.credentials import Credentials
from training.checkpoint import load_agent
from training.envs import nearest
from training.envs.base import BatchedEnv
from training.graph_policy import GraphPolicy
from training.networks.agent import DRQN
from training.rollout import AgentPolicy, Policy
from training.run_folder import find_run_folder
from training.types import EnvInfo, Observation

SCRIPTED = ("heuristic", "closest", "random")


class PolicyError(ValueError):
    """No such policy, or one that was made for another environment."""


@contextmanager
def open_policy(
    name: str,
    env: BatchedEnv,
    seed: int = 0,
    memory: Memory = "held",
    runs_dir: Path = Path("runs"),
) -> Iterator[Policy]:
    """A policy for all E battles of `env`, closed at the end.

    Args:
        name: heuristic, closest, random, grpc://HOST:PORT/MODEL, http://HOST:PORT/MODEL, the
            folder of an exported model's version, or a run, by folder or name.
        seed: of the random policy.
        memory: who keeps the hidden state of served agents.

    Raises:
        PolicyError: naming what does not fit.
    """
    if name in SCRIPTED:
        yield _scripted(name, env, seed)
    elif "://" in name:
        with _served(name, env, memory) as policy:
            yield policy
    elif (Path(name) / "manifest.json").is_file():
        yield _from_model(Path(name), env)
    else:
        yield _from_run(name, env, runs_dir)


def _scripted(name: str, env: BatchedEnv, seed: int) -> Policy:
    from training.algorithms import heuristic

    makers: dict[str, Callable[[], Policy]] = {
        "heuristic": heuristic.SmacHeuristic,
        "closest": lambda: heuristic.ClosestEnemy(env),
        "random": lambda: heuristic.RandomLegal(env, seed),
    }
    return makers[name]()


def _from_run(name: str, env: BatchedEnv, runs_dir: Path) -> Policy:
    try:
        folder = find_run_folder(runs_dir, name)
    except Exception as error:
        hint = nearest(name, SCRIPTED)
        raise PolicyError(f"{name!r} is no run, model folder or address{hint}") from error
    trained = load_agent(folder.path)
    require_fit(name, env.info, trained.info.layout_sha256, trained.info.map_name)
    info = trained.info
    hidden_dim = trained.weights["rnn.weight_hh"].shape[1]
    agent = DRQN(info.obs_dim, info.n_actions, info.n_agents, hidden_dim)
    agent.load_state_dict(trained.weights)
    return AgentPolicy(agent.to(env.device), env.n_envs)


def _from_model(folder: Path, env: BatchedEnv) -> Policy:
    manifest = json.loads((folder / "manifest.json").read_text())
    layout = manifest["environment"]["layout_sha256"]
    require_fit(str(folder), env.info, layout, manifest["map"])
    model = (folder / "model.onnx").read_bytes()
    return GraphPolicy(model, manifest["dims"]["hidden_dim"], env)


@contextmanager
def _served(url: str, env: BatchedEnv, memory: Memory) -> Iterator[Policy]:
    credentials = Credentials.from_environment()
    model = get_model(url, credentials=credentials)
    require_fit(url, env.info, model.layout_sha256, model.map)
    agent_ids = [agent for _ in range(env.n_envs) for agent in range(env.info.n_agents)]
    with Units(url, agent_ids, memory, credentials=credentials) as units:
        yield ServedPolicy(units, env)


def require_fit(name: str, info: EnvInfo, layout_sha256: str, map_name: str) -> None:
    if layout_sha256 != info.layout_sha256:
        raise PolicyError(
            f"{name} was made for {map_name}, whose observations or actions are not those of "
            f"{info.map_name} with these options"
        )


class ServedPolicy:
    """Each living unit asks the service for its own next step."""

    def __init__(self, units: Units, env: BatchedEnv) -> None:
        self._units = units
        self._shape = (env.n_envs, env.info.n_agents)
        self._device = env.device

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        self._units.begin_episode(self._places(slots.cpu().numpy()))

    def act(self, observation: Observation) -> torch.Tensor:
        obs = observation.obs.cpu().numpy().reshape(len(self._units), -1)
        mask = observation.avail_actions.cpu().numpy().reshape(len(self._units), -1)
        actions = self._units.act(obs, mask)
        return torch.from_numpy(actions).view(self._shape).to(self._device)

    def _places(self, slots: np.ndarray[Any, Any]) -> list[int]:
        return np.flatnonzero(np.repeat(slots, self._shape[1])).tolist()
