"""Skirmish recorded as the game is: the same requests, put to the API's server without its wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from s2clientprotocol import common_pb2, debug_pb2, sc2api_pb2

from training.envs.sc2_api.game import Game
from training.envs.smac.recorder import Order, Unit, as_units, record
from training.recording.twins import twins

Send = Callable[[sc2api_pb2.Request], sc2api_pb2.Response]


class Controller:
    """The part of pysc2's `RemoteController` that a recorder uses.

    Args:
        send: brings the response to a request.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def ask(self, **request: Any) -> sc2api_pb2.Response:
        """Raises: RuntimeError: the answer is an error."""
        response = self._send(sc2api_pb2.Request(**request))
        if response.error:
            raise RuntimeError("; ".join(response.error))
        return response

    def ping(self) -> Any:
        return self.ask(ping=sc2api_pb2.RequestPing()).ping

    def game_info(self) -> Any:
        return self.ask(game_info=sc2api_pb2.RequestGameInfo()).game_info

    def data_raw(self, **wanted: bool) -> Any:
        return self.ask(data=sc2api_pb2.RequestData(**wanted)).data

    def observe(self) -> Any:
        return self.ask(observation=sc2api_pb2.RequestObservation()).observation

    def actions(self, request: sc2api_pb2.RequestAction) -> Any:
        return self.ask(action=request).action

    def step(self, count: int) -> None:
        self.ask(step=sc2api_pb2.RequestStep(count=count))

    def kill(self, tags: Sequence[int]) -> None:
        kill = debug_pb2.DebugCommand(kill_unit=debug_pb2.DebugKillUnit(tag=tags))
        self.ask(debug=sc2api_pb2.RequestDebug(debug=[kill]))


class Battles:
    """The battles of a seed on one map, begun as SMAC begins them (spec §6.3)."""

    def __init__(self, controller: Controller, map_name: str, seed: int) -> None:
        self.controller = controller
        self._map_name, self._seed, self._begun = map_name, seed, False

    def begin(self) -> None:
        if self._begun:
            units = self.controller.observe().observation.raw_data.units
            self.controller.kill([unit.tag for unit in units])
            self.controller.step(2)
        else:
            self._create()
        self._begun = True

    def _create(self) -> None:
        create = sc2api_pb2.RequestCreateGame(
            local_map=sc2api_pb2.LocalMap(map_path=f"SMAC_Maps/{self._map_name}.SC2Map"),
            random_seed=self._seed,
        )
        create.player_setup.add(type=sc2api_pb2.Participant)
        create.player_setup.add(type=sc2api_pb2.Computer)
        self.controller.ask(create_game=create)
        options = sc2api_pb2.InterfaceOptions(raw=True)
        join = sc2api_pb2.RequestJoinGame(race=common_pb2.Random, options=options)
        self.controller.ask(join_game=join)


def record_skirmish(map_name: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The same beginnings and orders as in a recording of this map, played by Skirmish."""
    game = Game()

    def send(request: sc2api_pb2.Request) -> sc2api_pb2.Response:
        answer: sc2api_pb2.Response = sc2api_pb2.Response.FromString(
            game.answer(request.SerializeToString())
        )
        return answer

    battles = Battles(Controller(send), map_name, recorded["seed"])
    again = Again(recorded)
    return record(battles, recorded["seed"], len(recorded["resets"]), again)


class Again:
    """The orders of a recording, given to the twins of the units that had them."""

    def __init__(self, recorded: Mapping[str, Any]) -> None:
        self._first = as_units(recorded["resets"][-1]["units"])
        self._orders = iter([step["orders"] for step in recorded["episode"]])
        self._twins: dict[int, int] | None = None

    def __call__(self, units: Sequence[Unit]) -> list[Order] | None:
        orders = next(self._orders, None)
        if orders is None or not units:  # a step on the empty field would begin another battle
            return None
        if self._twins is None:
            pairs = twins(self._first, units)
            self._twins = {theirs["tag"]: ours["tag"] for theirs, ours in pairs}
        return [found for order in orders if (found := self._for_twin(order))]

    def _for_twin(self, order: Order) -> Order | None:
        assert self._twins is not None
        twin = dict(order)
        for key in ("unit", "target"):
            if key in order:
                twin[key] = self._twins.get(order[key])
        return None if None in twin.values() else twin
