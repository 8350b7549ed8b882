"""A client that sends what SMAC sends (spec §6.2, §6.3), word for word, and checks nothing.

Unlike SMAC it needs neither pysc2 nor another environment; like SMAC it sends bytes in text frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from s2clientprotocol import common_pb2, debug_pb2, raw_pb2, sc2api_pb2
from websockets.sync.client import connect

STOP, MOVE, ATTACK, HEAL = 4, 16, 23, 386
VERY_HARD = sc2api_pb2.VeryHard


class Sc2Client:
    """One connection. Each method sends one request and returns the whole response."""

    def __init__(self, port: int) -> None:
        url = f"ws://127.0.0.1:{port}/sc2api"
        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(url, compression=None, max_size=None))
        self._count = 0

    def send(self, **request: Any) -> sc2api_pb2.Response:
        """The response to the request of this name."""
        self._count += 1
        message = sc2api_pb2.Request(id=self._count, **request)
        return self.send_bytes(message.SerializeToString())

    def send_bytes(self, message: bytes) -> sc2api_pb2.Response:
        self._socket.send(message, text=True)
        answer = self._socket.recv()
        assert isinstance(answer, bytes), "answered in a text frame, which clients would decode"
        return sc2api_pb2.Response.FromString(answer)

    def create(self, map_path: str, seed: int | None = None) -> sc2api_pb2.Response:
        create = sc2api_pb2.RequestCreateGame(
            local_map=sc2api_pb2.LocalMap(map_path=map_path, map_data=b"the map's bytes"),
            realtime=False,
            random_seed=seed,
        )
        create.player_setup.add(type=sc2api_pb2.Participant)
        create.player_setup.add(
            type=sc2api_pb2.Computer, race=common_pb2.Terran, difficulty=VERY_HARD
        )
        return self.send(create_game=create)

    def join(self) -> sc2api_pb2.Response:
        options = sc2api_pb2.InterfaceOptions(raw=True, score=False)
        return self.send(
            join_game=sc2api_pb2.RequestJoinGame(race=common_pb2.Terran, options=options)
        )

    def begin(self, map_name: str, seed: int | None = None) -> None:
        """A game on this map, up to its first observation."""
        assert not self.create(f"SMAC_Maps/{map_name}.SC2Map", seed).create_game.HasField("error")
        assert self.join().join_game.player_id == 1

    def observe(self) -> sc2api_pb2.ResponseObservation:
        return self.send(
            observation=sc2api_pb2.RequestObservation(game_loop=0, disable_fog=False)
        ).observation

    def units(self, owner: int) -> list[raw_pb2.Unit]:
        raw = self.observe().observation.raw_data
        return [unit for unit in raw.units if unit.owner == owner]

    def command(self, tag: int, ability: int, **target: Any) -> int:
        """The result of a raw command to one unit."""
        command = raw_pb2.ActionRawUnitCommand(
            ability_id=ability, unit_tags=[tag], queue_command=False, **target
        )
        action = sc2api_pb2.Action(action_raw=raw_pb2.ActionRaw(unit_command=command))
        answer = self.send(action=sc2api_pb2.RequestAction(actions=[action]))
        assert not answer.error
        result: int
        (result,) = answer.action.result
        return result

    def step(self, count: int) -> sc2api_pb2.Response:
        return self.send(step=sc2api_pb2.RequestStep(count=count))

    def kill(self, tags: Sequence[int]) -> sc2api_pb2.Response:
        kill = debug_pb2.DebugCommand(kill_unit=debug_pb2.DebugKillUnit(tag=tags))
        return self.send(debug=sc2api_pb2.RequestDebug(debug=[kill]))

    def close(self) -> None:
        self._open.close()


def point(x: float, y: float) -> common_pb2.Point2D:
    return common_pb2.Point2D(x=x, y=y)
