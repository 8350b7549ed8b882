"""Units that are programs of their own: late, dead, back again, and cut off from each other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.client.local import LocalAgent
from serving.client.unit_wire import Done, Seen
from tests.serving.running import RunningServer
from training.isolation import IsolationError, isolated
from training.squad import Squad, SquadError, unit_command
from training.types import Observation

MODELS = Path(__file__).parents[2] / "models"
FOLDER = MODELS / "3m" / "1"
N_AGENTS, N_ACTIONS, OBS_DIM = 3, 9, 30
STOP = 1


class Show:
    """Made-up battles of 3m's sizes, and what agents that miss nothing would do in them."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(5)
        self.agents = [LocalAgent(FOLDER, agent) for agent in range(N_AGENTS)]

    def next(self, dead: Sequence[int] = ()) -> Observation:
        obs = self._random.uniform(-1, 1, (1, N_AGENTS, OBS_DIM)).astype(np.float32)
        masks = self._random.random((1, N_AGENTS, N_ACTIONS)) < 0.7
        masks[..., 0], masks[..., STOP] = False, True
        for agent in dead:
            masks[0, agent] = np.arange(N_ACTIONS) == 0
        return Observation(torch.from_numpy(obs), torch.zeros(1, 1), torch.from_numpy(masks))

    def actions(self, seen: Observation, away: Sequence[int] = ()) -> list[int]:
        """Of each; STOP, and no memory of the step, for those who are away."""
        return [
            STOP if agent in away else it.act(seen.obs[0, agent], seen.avail_actions[0, agent])
            for agent, it in enumerate(self.agents)
        ]


def begin(squad: Squad, battle: int) -> None:
    squad.begin(torch.tensor([True]), torch.tensor([battle]))


def local(agent: int) -> list[str]:
    return unit_command(agent, "--model", str(FOLDER))


@contextlib.contextmanager
def ready(squad: Squad) -> Iterator[Squad]:
    with squad:
        squad.wait_until_ready()
        yield squad


def test_a_unit_that_is_killed_stands_still_and_comes_back_with_its_memory(tmp_path: Path) -> None:
    show = Show()
    with ready(Squad(local, N_AGENTS, tmp_path, deadline_s=None)) as squad:
        begin(squad, 4)
        for _ in range(3):
            seen = show.next()
            assert squad.act(seen)[0].tolist() == show.actions(seen)
        os.kill(squad.pids[1], signal.SIGKILL)
        seen = show.next()
        assert squad.act(seen)[0].tolist() == show.actions(seen, away=[1])
        for _ in range(3):
            seen = show.next()
            assert squad.act(seen)[0].tolist() == show.actions(seen)
        assert [unit.missed for unit in squad.services] == [0, 1, 0]
        assert [unit.restarts for unit in squad.services] == [0, 1, 0]
        assert [unit.steps for unit in squad.services] == [7, 7, 7]


def test_a_unit_that_hangs_misses_steps_and_holds_nobody_up(tmp_path: Path) -> None:
    show = Show()
    with ready(Squad(local, N_AGENTS, tmp_path, deadline_s=1.0)) as squad:
        begin(squad, 0)
        seen = show.next()
        assert squad.act(seen)[0].tolist() == show.actions(seen)
        os.kill(squad.pids[2], signal.SIGSTOP)
        began = time.monotonic()
        missed = [show.next(), show.next()]
        for seen in missed:
            assert squad.act(seen)[0].tolist() == show.actions(seen, away=[2])
        assert 2.0 <= time.monotonic() - began < 4.0
        os.kill(squad.pids[2], signal.SIGCONT)
        time.sleep(0.5)
        # It has caught up with the newest of what it was shown, and passed over the rest.
        show.agents[2].act(missed[-1].obs[0, 2], missed[-1].avail_actions[0, 2])
        seen = show.next()
        assert squad.act(seen)[0].tolist() == show.actions(seen)
        assert [unit.missed for unit in squad.services] == [0, 0, 2]
        assert [unit.restarts for unit in squad.services] == [0, 0, 0]


def test_the_dead_are_left_in_peace_and_a_new_battle_begins_without_memory(tmp_path: Path) -> None:
    show = Show()
    with ready(Squad(local, N_AGENTS, tmp_path, deadline_s=None)) as squad:
        begin(squad, 0)
        squad.act(show.next())
        seen = show.next(dead=[0, 2])
        assert squad.act(seen)[0, [0, 2]].tolist() == [0, 0]
        assert [unit.steps for unit in squad.services] == [1, 2, 1]
        begin(squad, 1)
        for agent in show.agents:
            agent.begin_episode()
        seen = show.next()
        assert squad.act(seen)[0].tolist() == show.actions(seen)


def test_an_action_that_is_not_available_is_not_taken(tmp_path: Path) -> None:
    """Whatever a unit's program may say, the game goes on."""
    answer = (
        "import socket, sys; from serving.client.unit_wire import *; "
        "game = socket.socket(fileno=int(sys.argv[sys.argv.index('--socket') + 1])); "
        "game.send(READY); seen = Seen.unpack(game.recv(MOST_BYTES)); "
        "game.send(Done(seen.battle, seen.step, {action}).pack()); game.recv(MOST_BYTES)"
    )
    for action in (0, N_ACTIONS, -7):
        command = [sys.executable, "-c", answer.format(action=action)]
        with ready(Squad(lambda agent: command, N_AGENTS, tmp_path, None)) as squad:  # noqa: B023
            begin(squad, 0)
            assert squad.act(Show().next())[0].tolist() == [STOP] * N_AGENTS
            assert [unit.missed for unit in squad.services] == [1] * N_AGENTS


def test_a_server_that_goes_and_comes_back_costs_steps_and_no_memory(tmp_path: Path) -> None:
    show = Show()
    with RunningServer(MODELS) as server:
        ports = int(server.rest.rpartition(":")[2]), int(server.grpc.rpartition(":")[2])
        asks = ["--server", f"grpc://{server.grpc}/3m", "--timeout", "2"]
        squad = Squad(lambda agent: unit_command(agent, *asks), N_AGENTS, tmp_path, 4.0)
        with ready(squad):
            begin(squad, 0)
            for _ in range(2):
                seen = show.next()
                assert squad.act(seen)[0].tolist() == show.actions(seen)
            assert server.stop() == 0
            seen = show.next()
            assert squad.act(seen)[0].tolist() == [STOP] * N_AGENTS
            with RunningServer(MODELS, ports=ports):
                seen = show.next()
                assert squad.act(seen)[0].tolist() == show.actions(seen)
                assert [unit.missed for unit in squad.services] == [1] * N_AGENTS
                assert [unit.restarts for unit in squad.services] == [0] * N_AGENTS


def test_a_unit_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    nowhere = unit_command(0, "--model", str(tmp_path / "none" / "1"))
    with (
        Squad(lambda agent: nowhere, 1, tmp_path) as squad,
        pytest.raises(SquadError, match="unit 0 does not start"),
    ):
        squad.wait_until_ready()


def test_messages_are_what_was_sent() -> None:
    obs = np.array([0.5, -1.5], np.float32)
    seen = Seen(2**40, 3, obs, np.array([True, False, True]))
    back = Seen.unpack(seen.pack())
    assert (back.battle, back.step) == (2**40, 3)
    assert back.obs.tolist() == [0.5, -1.5]
    assert back.avail_actions.tolist() == [True, False, True]
    assert Done.unpack(Done(2**40, 3, 5).pack()) == (2**40, 3, 5)


def test_isolated_units_reach_the_service_alone() -> None:
    with contextlib.ExitStack() as stack:
        try:
            spaces = stack.enter_context(isolated(2))
        except IsolationError as error:
            pytest.skip(str(error))
        listen = (
            "import socket; s = socket.create_server(('0.0.0.0', 7000)); print('on', flush=True)\n"
            "while True: s.accept()[0].close()"
        )
        places = [spaces.service_command, *(
            lambda command, i=i: spaces.unit_command(i, command) for i in range(2)
        )]  # fmt: skip
        for place in places:
            listener = subprocess.Popen(
                place([sys.executable, "-c", listen]), stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(listener)
            stack.callback(listener.kill)
            assert listener.stdout is not None
            assert listener.stdout.readline() == "on\n"
        assert reach(spaces.unit_command(0, []), spaces.service_host(0)) == "reached"
        for host in (spaces.unit_host(1), spaces.service_host(1), "127.0.0.1", *own_addresses()):
            assert reach(spaces.unit_command(0, []), host) != "reached"


def reach(place: list[str], host: str) -> str:
    """From there, to port 7000 of the host."""
    probe = (
        "import socket, sys\n"
        "try:\n    socket.create_connection((sys.argv[1], 7000), 1).close(); print('reached')\n"
        "except OSError as error: print(error)"
    )
    command = [*place, sys.executable, "-c", probe, host]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def own_addresses() -> list[str]:
    return [a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]  # type: ignore[misc]
