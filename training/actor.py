"""The playing half of a run: simulator, acting and tests, here or in a process of its own.

Playing and learning alternate in rounds. A round's `Order` carries the weights of the last round's
end; while the actor plays, the learner trains on what earlier rounds brought. Who is faster changes
nothing, so a run repeats to the bit, and so it does whether the actor is a process or not.
"""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from training.config import TrainConfig
from training.envs import make_env

if TYPE_CHECKING:
    import torch

    from training.envs.base import BatchedEnv
    from training.types import BattleRecord, EnvInfo, Episode

POLL_SECONDS = 0.05


class ActorError(RuntimeError):
    """The playing process failed or died; the message says how."""


class StoppedError(Exception):
    """The wait for a round's result was broken off."""


@dataclass(frozen=True)
class TestOrder:
    """A greedy test with the order's weights, on battles never trained on."""

    first_battle: int
    n_battles: int
    confirm_from: float
    """The win rate from which the test is confirmed..."""
    confirm_battles: int
    """... on so many battles more."""


@dataclass(frozen=True)
class Order:
    """What to do in a round."""

    weights: dict[str, torch.Tensor]
    n_env_steps: int
    test: TestOrder | None = None


@dataclass(frozen=True)
class Result:
    """What a round brought."""

    episodes: list[Episode]
    tested: list[BattleRecord]
    confirmed: list[BattleRecord]
    state: dict[str, Any]
    """Of the rollout, to go on after this round."""


class Actor(Protocol):
    """Plays rounds: `begin` each, then `finish` it."""

    def start(self, rollout_state: dict[str, Any] | None) -> EnvInfo:
        """Be ready for the first round, going on from a `Result.state` if there is one."""
        ...

    def begin(self, order: Order) -> None: ...

    def finish(self, stop: Callable[[], bool]) -> Result:
        """Raises: StoppedError: `stop()` turned true; the actor is of no more use."""
        ...

    def close(self) -> None: ...


class LocalActor:
    """Plays in this process, when the round is to be finished."""

    def __init__(self, config: TrainConfig, device: str) -> None:
        self._config, self._device = config, device

    def start(self, rollout_state: dict[str, Any] | None) -> EnvInfo:
        self._player = Player(self._config, self._device, rollout_state)
        return self._player.info

    def begin(self, order: Order) -> None:
        self._order = order

    def finish(self, stop: Callable[[], bool]) -> Result:
        if stop():
            raise StoppedError
        return self._player.play(self._order)

    def close(self) -> None:
        pass


class ProcessActor:
    """Plays in a process of its own, with one thread.

    The process is started at once, so that it imports while its parent does. It dies with its
    parent, however that ends, and leaves signals to it.
    """

    def __init__(self, config: TrainConfig, device: str) -> None:
        ours, theirs = socket.socketpair()
        paths = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(":")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "training.actor", str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        self._pipe = Connection(ours.detach())
        self._setup = (config, device)

    def start(self, rollout_state: dict[str, Any] | None) -> EnvInfo:
        self._send((*self._setup, rollout_state))
        info: EnvInfo = self._receive(lambda: False)
        return info

    def begin(self, order: Order) -> None:
        self._send(order)

    def finish(self, stop: Callable[[], bool]) -> Result:
        result: Result = self._receive(stop)
        return result

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()

    def _send(self, message: Any) -> None:
        try:
            send(self._pipe, message)
        except OSError:
            raise self._death() from None

    def _receive(self, stop: Callable[[], bool]) -> Any:
        try:
            while not self._pipe.poll(POLL_SECONDS):
                if stop():
                    raise StoppedError
            answer = receive(self._pipe)
        except (EOFError, ConnectionError):
            raise self._death() from None
        if isinstance(answer, Failure):
            raise ActorError(answer.text)
        return answer

    def _death(self) -> ActorError:
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return ActorError(f"the playing process {self._process.pid} died: {how}")


@dataclass(frozen=True)
class Failure:
    """What the playing process sends when it cannot go on."""

    text: str


class Player:
    """The work itself, wherever it is done."""

    def __init__(
        self, config: TrainConfig, device: str, rollout_state: Mapping[str, Any] | None
    ) -> None:
        # Imported here, so that a trainer can start its playing process before it imports torch.
        from training.exploration import LinearSchedule
        from training.networks.agent import DRQN
        from training.rollout import AgentPolicy, Rollout

        play, self._config, self._device = config.play, config, device
        env = self._make_env(play.batch_size_run)
        self.info = env.info
        self._agent = DRQN(
            env.info.obs_dim,
            env.info.n_actions,
            env.info.n_agents,
            config.learning.rnn_hidden_dim,
        ).to(device)
        epsilon = LinearSchedule(play.epsilon_start, play.epsilon_finish, play.epsilon_anneal_time)
        policy = AgentPolicy(self._agent, env.n_envs, epsilon, config.task.seed)
        self._rollout = Rollout(env, policy)
        if rollout_state is not None:
            self._rollout.load_state_dict(rollout_state)
        self._test_env: BatchedEnv | None = None

    def play(self, order: Order) -> Result:
        self._agent.load_state_dict(order.weights)
        tested, confirmed = self._test(order.test) if order.test else ([], [])
        episodes = self._rollout.play(order.n_env_steps)
        return Result(episodes, tested, confirmed, self._rollout.state_dict())

    def _test(self, order: TestOrder) -> tuple[list[BattleRecord], list[BattleRecord]]:
        tested = self._play_greedily(order.first_battle, order.n_battles)
        wins = sum(battle.battle_won for battle in tested)
        if wins == 0 or wins < order.confirm_from * len(tested):
            return tested, []
        return tested, self._play_greedily(
            order.first_battle + order.n_battles, order.confirm_battles
        )

    def _play_greedily(self, first_battle: int, n_battles: int) -> list[BattleRecord]:
        from training.rollout import AgentPolicy, play_battles

        if self._test_env is None:
            report = self._config.report
            self._test_env = self._make_env(min(report.test_nepisode, report.confirm_nepisode))
        policy = AgentPolicy(self._agent, self._test_env.n_envs)
        battle_ids = range(first_battle, first_battle + n_battles)
        return play_battles(self._test_env, policy, battle_ids)

    def _make_env(self, n_envs: int) -> BatchedEnv:
        task = self._config.task
        return make_env(task.env, task.map_name, n_envs, task.seed, self._device, **task.env_args)


def send(pipe: Connection, message: Any) -> None:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(message)
    pipe.send_bytes(buffer.getbuffer())


def receive(pipe: Connection) -> Any:
    return pickle.loads(pipe.recv_bytes())


class _Pickler(pickle.Pickler):
    """Sends a tensor as its array: torch's own way takes a file descriptor or a file format."""

    def reducer_override(self, obj: Any) -> Any:
        import torch

        if isinstance(obj, torch.Tensor):
            return torch.from_numpy, (obj.detach().cpu().numpy(),)
        return NotImplemented


def main() -> None:
    """The playing process: set up, then play every order that comes through the pipe."""
    descriptor, parent = (int(argument) for argument in sys.argv[1:])
    _die_with(parent)
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the trainer decides when this process ends
    pipe = Connection(descriptor)
    try:
        import torch

        torch.set_num_threads(1)
        player = Player(*receive(pipe))
        send(pipe, player.info)
        while True:
            send(pipe, player.play(receive(pipe)))
    except (EOFError, ConnectionError):
        return  # the trainer has gone
    except ValueError as error:
        send(pipe, Failure(str(error)))
    except Exception:
        send(pipe, Failure(f"the playing process failed:\n{traceback.format_exc()}"))


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, also while it computes."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit()


_PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    # What is sent must be known to the trainer as `training.actor`'s, not as `__main__`'s.
    from training import actor

    actor.main()
