"""`python -m benchmarks.standards`: whole battles through NVIDIA's unchanged tritonclient.

Every living unit asks for its own step, over HTTP and gRPC, with sequences and with memories it
carries. The battles are those that the model file plays in this process, to the last action.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import tyro

from benchmarks.peers import PeerUnavailableError, peer_python
from training.envs import make_env
from training.policies import open_policy
from training.rollout import Policy, play_battles
from training.types import BattleRecord, Observation

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "examples" / "triton_units.py"

Door = Literal["http", "grpc"]
Memory = Literal["sequence", "carried"]


@dataclass(frozen=True)
class Command:
    """Play battles with tritonclient against a running service, or a running Triton."""

    http: str = "127.0.0.1:8000"
    grpc: str = "127.0.0.1:50051"
    maps: tuple[str, ...] = ("3m", "3s5z")
    """Each with the model of its name, version 1."""
    memories: tuple[Memory, ...] = ("sequence", "carried")
    """Triton knows sequences alone."""
    episodes: int = 10
    seed: int = 12345


class Way(NamedTuple):
    """How tritonclient asks."""

    door: Door
    memory: Memory
    address: str


class Played(NamedTuple):
    """What one way of asking has shown."""

    way: Way
    n_actions: int
    """Asked for by living units."""
    n_other: int
    """That were not the model file's own."""
    seconds: float


class Battles(NamedTuple):
    battles: list[BattleRecord]
    ways: list[Played]


class TritonUnits:
    """A policy that asks a process whose environment has tritonclient.

    Args:
        n_agents: units of one battle.
    """

    def __init__(self, process: subprocess.Popen[str], n_agents: int) -> None:
        self._process, self._n_agents = process, n_agents
        self._begin: list[int] = []
        self.n_actions = 0

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        begun = slots.repeat_interleave(self._n_agents)
        self._begin = torch.nonzero(begun).flatten().tolist()

    def act(self, observation: Observation) -> torch.Tensor:
        masks = observation.avail_actions.flatten(0, 1)
        # A dead unit may do nothing but action 0, and need not be asked.
        alive = masks[:, 1:].any(1)
        units = torch.nonzero(alive).flatten().tolist()
        step = {
            "begin": self._begin,
            "units": units,
            "agents": [unit % self._n_agents for unit in units],
            "obs": observation.obs.flatten(0, 1)[alive].tolist(),
            "avail_actions": masks[alive].tolist(),
        }
        self._begin = []
        self.n_actions += len(units)
        actions = torch.zeros(len(masks), dtype=torch.int64)
        actions[alive] = torch.tensor(self._ask(step)["actions"], dtype=torch.int64)
        return actions.view(observation.avail_actions.shape[:2])

    def _ask(self, step: object) -> dict[str, list[int]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(step) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"tritonclient ended with status {self._process.wait()}")
        return dict(json.loads(answer))


class SideBySide:
    """A policy of several ways: each is asked at every step, and plays while it does as the model
    file does. Once one does not, the battle goes on as the model file plays it."""

    def __init__(self, at_home: Policy, ways: list[TritonUnits]) -> None:
        self._at_home, self._ways = at_home, ways
        self.n_other = [0] * len(ways)
        self.seconds = [0.0] * len(ways)

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        for policy in (self._at_home, *self._ways):
            policy.begin(slots, battle_ids)

    def act(self, observation: Observation) -> torch.Tensor:
        expected = self._at_home.act(observation)
        for place, way in enumerate(self._ways):
            start = time.perf_counter()
            answered = way.act(observation)
            self.seconds[place] += time.perf_counter() - start
            self.n_other[place] += int((answered != expected).sum())
        return expected


@contextmanager
def triton_units(way: Way, model: str, n_agents: int) -> Iterator[TritonUnits]:
    """Raises: PeerUnavailableError: tritonclient cannot be installed."""
    python = peer_python("tritonclient", print)
    process = subprocess.Popen(
        [python, "-I", SCRIPT, way.address, model, way.door, way.memory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield TritonUnits(process, n_agents)
    finally:
        process.kill()
        process.communicate()


def play(map_name: str, ways: Sequence[Way], episodes: int, seed: int) -> Battles:
    """Battles of this map by the model of its name, asked for in each way."""
    env = make_env("skirmish", map_name, episodes, seed, "cpu", False)
    with ExitStack() as stack:
        home = stack.enter_context(open_policy(str(ROOT / "models" / map_name / "1"), env))
        units = [
            stack.enter_context(triton_units(way, map_name, env.info.n_agents)) for way in ways
        ]
        policy = SideBySide(home, units)
        battles = play_battles(env, policy, range(episodes))
    played = [
        Played(way, it.n_actions, n_other, seconds)
        for way, it, n_other, seconds in zip(
            ways, units, policy.n_other, policy.seconds, strict=True
        )
    ]
    return Battles(battles, played)


def main() -> None:
    command = tyro.cli(Command, prog="python -m benchmarks.standards", description=Command.__doc__)
    addresses: dict[Door, str] = {"http": command.http, "grpc": command.grpc}
    ways = [
        Way(door, memory, address)
        for door, address in addresses.items()
        for memory in command.memories
    ]
    n_other = 0
    for map_name in command.maps:
        try:
            played = play(map_name, ways, command.episodes, command.seed)
        except PeerUnavailableError as error:
            sys.exit(f"tritonclient {error}")
        won = sum(battle.battle_won for battle in played.battles)
        print(f"{map_name}: {command.episodes} battles, {won} won")
        for it in played.ways:
            n_other += it.n_other
            print(
                f"  {it.way.door} {it.way.memory:8} {it.n_actions} actions in {it.seconds:.1f} s, "
                f"{it.n_other} of them not the model's own"
            )
    sys.exit(1 if n_other else 0)


if __name__ == "__main__":
    main()
