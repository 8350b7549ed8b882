"""A team whose units are programs of their own: each sees its own observation and nothing else.

The game waits for nobody: a unit that has not answered in time stands still for that step. One that
has died is started again, and stands still until it is back.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from serving.client.unit_wire import MOST_BYTES, READY, Done, Seen
from training.types import Observation

NO_OP = 0
START_SECONDS = 60.0

GAME_STEP_SECONDS = 8 / 22.4
"""What a step takes in the game as people play it: 8 loops of 22.4 a second."""


class SquadError(RuntimeError):
    """The units cannot be had."""


@dataclass
class Service:
    """How one unit was served."""

    steps: int = 0
    """In which it was alive."""
    restarts: int = 0
    seconds: list[float] = field(default_factory=list)
    """From observation to action, of the steps that were answered in time."""

    @property
    def missed(self) -> int:
        """Steps in which it stood still, for want of an answer."""
        return self.steps - len(self.seconds)


class Squad:
    """One battle's units, as a `Policy` for one battle at a time.

    Args:
        launch: agent id -> the command that runs `serving.client.unit` for it, without the
            arguments about its socket and its memory.
        folder: where each unit's memory is kept.
        deadline_s: how long an answer may take; None: as long as it likes.
    """

    def __init__(
        self,
        launch: Callable[[int], Sequence[str]],
        n_agents: int,
        folder: Path,
        deadline_s: float | None = GAME_STEP_SECONDS,
    ) -> None:
        self.services = [Service() for _ in range(n_agents)]
        self._launch, self._folder, self._deadline_s = launch, folder, deadline_s
        self._battle = self._step = -1
        self._units = [_UnitProcess(launch(i), folder / f"unit-{i}") for i in range(n_agents)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for unit in self._units:
            unit.game.close()  # which is how they know
        for unit in self._units:
            unit.end()

    @property
    def pids(self) -> list[int]:
        """The process of each unit."""
        return [unit.process.pid for unit in self._units]

    def wait_until_ready(self) -> None:
        """Raises: SquadError: a unit has ended, or says nothing for a minute."""
        for agent, unit in enumerate(self._units):
            unit.game.settimeout(START_SECONDS)
            try:
                said = unit.game.recv(MOST_BYTES)
            except OSError:
                said = b""
            if said != READY:
                raise SquadError(f"unit {agent} does not start; it says why above")
            unit.game.setblocking(False)

    # ------------------------------------------------------------------ playing

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        """See `Policy.begin`; one battle."""
        if bool(slots[0]):
            self._battle, self._step = int(battle_ids[0]), -1

    def act(self, observation: Observation) -> torch.Tensor:
        """See `Policy.act`; one battle. [1, A]"""
        self._step += 1
        masks = observation.avail_actions[0].cpu()
        # Standing still: no-op for the dead; else stop, which comes next.
        actions = masks.int().argmax(1)
        living = (~masks[:, NO_OP]).nonzero()[:, 0].tolist()
        began = time.perf_counter()
        for agent in living:
            self.services[agent].steps += 1
        asked = [agent for agent in living if self._show(agent, observation)]
        for agent, done, seconds in self._answers(asked, began):
            if 0 <= done.action < masks.shape[1] and masks[agent, done.action]:
                actions[agent] = done.action
                self.services[agent].seconds.append(seconds)
        return actions[None].to(observation.obs.device)

    def _show(self, agent: int, observation: Observation) -> bool:
        """Whether the unit could be told what it sees."""
        seen = Seen(
            self._battle,
            self._step,
            observation.obs[0, agent].cpu().numpy(),
            observation.avail_actions[0, agent].cpu().numpy(),
        )
        try:
            self._units[agent].game.send(seen.pack())
        except BlockingIOError:  # it does not listen
            return False
        except OSError:
            self._start_again(agent)
            return False
        return True

    def _answers(self, asked: list[int], began: float) -> list[tuple[int, Done, float]]:
        """What comes in time, with the seconds that it took."""
        answers = []
        waiting = {self._units[agent].game: agent for agent in asked}
        while waiting:
            left = None
            if self._deadline_s is not None:
                left = began + self._deadline_s - time.perf_counter()
                if left <= 0:
                    break
            for game in select.select(list(waiting), [], [], left)[0]:
                agent = waiting[game]
                try:
                    message = game.recv(MOST_BYTES)
                except ConnectionError:
                    message = b""
                if not message:  # it has died
                    del waiting[game]
                    self._start_again(agent)
                elif message != READY and (done := Done.unpack(message))[:2] == self._now:
                    del waiting[game]
                    answers.append((agent, done, time.perf_counter() - began))
        return answers

    @property
    def _now(self) -> tuple[int, int]:
        return self._battle, self._step

    def _start_again(self, agent: int) -> None:
        old = self._units[agent]
        old.game.close()
        old.process.kill()  # if it has only hung up
        old.process.wait()
        self._units[agent] = _UnitProcess(self._launch(agent), old.remember)
        self._units[agent].game.setblocking(False)
        self.services[agent].restarts += 1


class _UnitProcess:
    """One unit's program, and the game's end of its socket."""

    def __init__(self, command: Sequence[str], remember: Path) -> None:
        self.remember = remember
        self.game, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            wired = ["--socket", str(theirs.fileno()), "--remember", str(remember)]
            self.process = subprocess.Popen(
                [*command, *wired], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )

    def end(self) -> None:
        """It has been hung up on; where that is not enough, it is ended."""
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def unit_command(agent: int, *arguments: str) -> list[str]:
    """What runs a unit with this Python."""
    return [sys.executable, "-m", "serving.client.unit", "--agent-id", str(agent), *arguments]
