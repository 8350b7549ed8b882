"""The playing half of a run: simulator, acting and tests, here or in a process of its own.

Playing and learning alternate in rounds. A round's `Order` carries the weights of the last round's
end; while the actor plays, the learner trains on what earlier rounds brought (on-policy: before
it). Who is faster changes nothing, so a run repeats to the bit, and so it does whether the actor is
a process or not.
"""

from __future__ import annotations

import ctypes
import dataclasses
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

from training.algorithms import ALGORITHMS
from training.config import TrainConfig
from training.envs import GAMES, GameError, make_env

if TYPE_CHECKING:
    import torch

    from training.envs.base import BatchedEnv
    from training.networks.agent import DRQN
    from training.rollout import BattleList, Rollout
    from training.types import BattleRecord, EnvInfo, Episode
    from training.whole_battles import WholeBattles

POLL_SECONDS = 0.05


class ActorError(RuntimeError):
    """The playing process failed or died; the message says how."""


class StoppedError(Exception):
    """The wait for a round's result was broken off."""


@dataclass(frozen=True)
class TestOrder:
    """A greedy test, on battles never trained on, of the weights that come with it."""

    env_steps: int
    episodes: int
    gradient_steps: int
    """Of the weights: how far the run was."""
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
    """At least so many: what plays has its own smallest unit, a step of all battles or a batch."""
    test: TestOrder | None = None
    """A test to begin; one that is under way goes on otherwise."""
    n_test_steps: int | None = None
    """Steps of it to take now; None: all."""


@dataclass(frozen=True)
class TestResult:
    """A test that is over."""

    order: TestOrder
    weights: dict[str, torch.Tensor]
    tested: list[BattleRecord]
    confirmed: list[BattleRecord]


@dataclass(frozen=True)
class Result:
    """What a round brought."""

    episodes: list[Episode]
    n_env_steps: int
    """Played in this round."""
    test: TestResult | None
    """The test that ended in this round."""
    state: dict[str, Any]
    """To go on after this round."""
    game_restarts: int | None = None
    """Games so far that had broken off, tests' too; None where no game is played."""


class Actor(Protocol):
    """Plays rounds: `begin` each, then `finish` it."""

    def start(self, state: dict[str, Any] | None, stop: Callable[[], bool]) -> EnvInfo:
        """Be ready for the first round, going on from a `Result.state` if there is one.

        Raises:
            StoppedError: as `finish` does.
        """
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

    def start(self, state: dict[str, Any] | None, stop: Callable[[], bool]) -> EnvInfo:
        self._player = Player(self._config, self._device, state)
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
    parent, however that ends, and leaves signals to it: a Ctrl-C does not reach its process group.
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
            process_group=0,
        )
        theirs.close()
        self._pipe = Connection(ours.detach())
        self._setup = (config, device)

    def start(self, state: dict[str, Any] | None, stop: Callable[[], bool]) -> EnvInfo:
        self._send((*self._setup, state))
        info: EnvInfo = self._receive(stop)
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

    def __init__(self, config: TrainConfig, device: str, state: Mapping[str, Any] | None) -> None:
        # Imported here, so that a trainer can start its playing process before it imports torch.
        self._config, self._device = config, device
        self._envs: dict[int, BatchedEnv] = {}
        env = self._make_env(config.play.batch_size_run)
        self.info = env.info
        self._agent = self._build_agent()
        self._rollout = self._build_rollout(env)
        self.info = env.info  # a game, begun by now, has told its version
        self._repeats = config.task.env not in GAMES
        self._restarts_before = 0
        self._test: Test | None = None
        if state is not None:
            self._restore(state)

    def play(self, order: Order) -> Result:
        if order.test is not None:
            self._test = self._begin_test(order.test, order.weights)
        ended = self._test.advance(order.n_test_steps) if self._test is not None else None
        if ended is not None:
            self._test = None
        self._agent.load_state_dict(order.weights)
        before = self._rollout.env_steps
        episodes = self._rollout.play(order.n_env_steps)
        n_env_steps = self._rollout.env_steps - before
        return Result(episodes, n_env_steps, ended, self._state(), self._game_restarts())

    def _game_restarts(self) -> int | None:
        if self._repeats:
            return None
        here = (self._rollout.battles.env, *self._envs.values())
        return self._restarts_before + sum(getattr(env, "restarts", 0) for env in here)

    def _state(self) -> dict[str, Any]:
        test = self._test.state() if self._test is not None else None
        state = {"rollout": self._rollout.state_dict(), "test": test}
        return state if self._repeats else {**state, "game_restarts": self._game_restarts()}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._rollout.load_state_dict(state["rollout"])
        self._restarts_before = state.get("game_restarts", 0)
        if (test := state["test"]) is not None:
            self._test = self._begin_test(TestOrder(**test["order"]), test["weights"])
            if self._repeats:
                self._test.advance(test["n_steps"])  # it comes to where it was

    def _begin_test(self, order: TestOrder, weights: Mapping[str, torch.Tensor]) -> Test:
        agent = self._build_agent()
        agent.load_state_dict(weights)
        # A game takes memory of its own: a test has no more of them than the battles for learning.
        at_once = sys.maxsize if self._repeats else self._config.play.batch_size_run
        return Test(order, agent, self._test_env, at_once)

    def _build_rollout(self, env: BatchedEnv) -> Rollout | WholeBattles:
        from training.exploration import LinearSchedule
        from training.rollout import AgentPolicy, Rollout
        from training.whole_battles import SamplingPolicy, WholeBattles

        play, task = self._config.play, self._config.task
        epsilon = LinearSchedule(play.epsilon_start, play.epsilon_finish, play.epsilon_anneal_time)
        if ALGORITHMS[task.algo].on_policy:
            n_battles = self._config.learning.batch_size
            policy = SamplingPolicy(self._agent, env.n_envs, task.seed)
            return WholeBattles(env, policy, n_battles, epsilon)
        return Rollout(env, AgentPolicy(self._agent, env.n_envs, epsilon, task.seed))

    def _build_agent(self) -> DRQN:
        from training.networks.agent import DRQN

        info, hidden_dim = self.info, self._config.learning.rnn_hidden_dim
        return DRQN(info.obs_dim, info.n_actions, info.n_agents, hidden_dim).to(self._device)

    def _test_env(self, n_envs: int) -> BatchedEnv:
        if n_envs not in self._envs:
            self._envs[n_envs] = self._make_env(n_envs)
        return self._envs[n_envs]

    def _make_env(self, n_envs: int) -> BatchedEnv:
        task = self._config.task
        compiled = self._config.play.compile_env
        return make_env(
            task.env, task.map_name, n_envs, task.seed, self._device, compiled, **task.env_args
        )


class Test:
    """A greedy test under way, and its confirmation if it turns out well.

    Args:
        at_once: battles side by side, at most.
    """

    def __init__(
        self,
        order: TestOrder,
        agent: DRQN,
        make_env: Callable[[int], BatchedEnv],
        at_once: int = sys.maxsize,
    ) -> None:
        self._order, self._agent, self._make_env = order, agent, make_env
        self._at_once = at_once
        self._n_steps = 0
        self._tested: list[BattleRecord] = []  # empty until the confirmation begins
        self._battles = self._begin(order.first_battle, order.n_battles)

    def advance(self, n_steps: int | None) -> TestResult | None:
        """Take so many steps, or all there are. Returns the result once the test is over."""
        taken = self._battles.advance(n_steps)
        self._n_steps += taken
        if not self._battles.is_over:
            return None
        records = self._battles.records()
        if self._tested:
            return TestResult(self._order, self._weights(), self._tested, records)
        if not self._wants_confirmation(records):
            return TestResult(self._order, self._weights(), records, [])
        self._tested = records
        first_battle = self._order.first_battle + self._order.n_battles
        self._battles = self._begin(first_battle, self._order.confirm_battles)
        return self.advance(None if n_steps is None else n_steps - taken)

    def state(self) -> dict[str, Any]:
        """It comes to the same place again from its beginning by so many steps."""
        order = dataclasses.asdict(self._order)
        return {"order": order, "weights": self._weights(), "n_steps": self._n_steps}

    def _wants_confirmation(self, records: list[BattleRecord]) -> bool:
        wins = sum(record.battle_won for record in records)
        return wins > 0 and wins >= self._order.confirm_from * len(records)

    def _begin(self, first_battle: int, n_battles: int) -> BattleList:
        from training.rollout import AgentPolicy, BattleList

        n_envs = min(n_battles, self._at_once)
        policy = AgentPolicy(self._agent, n_envs)
        battle_ids = range(first_battle, first_battle + n_battles)
        return BattleList(self._make_env(n_envs), policy, battle_ids)

    def _weights(self) -> dict[str, torch.Tensor]:
        return dict(self._agent.state_dict())


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

        from training.allocator import keep_freed_memory

        torch.set_num_threads(1)
        keep_freed_memory()
        player = Player(*receive(pipe))
        send(pipe, player.info)
        while True:
            send(pipe, player.play(receive(pipe)))
    except (EOFError, ConnectionError):
        return  # the trainer has gone
    except (ValueError, GameError) as error:
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
