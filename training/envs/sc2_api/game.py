"""The game's program, without its socket: a request in, a response out, and a status between.

Statuses and the requests they take are the API's (s2clientprotocol's sc2api.proto); spec §6.3 has
what SMAC sends. A request that the game does not take is answered with its `error`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from google.protobuf.message import DecodeError, Message
from s2clientprotocol import error_pb2, sc2api_pb2

from training.envs import nearest
from training.envs.sc2_api.commands import RefusedError, read_action
from training.envs.sc2_api.game_data import game_data, game_info
from training.envs.sc2_api.match import Match, Order
from training.envs.sc2_api.units_seen import OURS, UnitsSeen
from training.envs.skirmish.scenario import load_scenario, map_names

GAME_VERSION, BASE_BUILD = "4.10.0.75689", 75689
"""What the game that SMAC names calls itself."""

LAUNCHED, INIT_GAME, IN_GAME = sc2api_pb2.launched, sc2api_pb2.init_game, sc2api_pb2.in_game
ANY = frozenset(sc2api_pb2.Status.values())
TAKES = {
    "ping": ANY,
    "quit": ANY,
    "available_maps": ANY,
    "create_game": frozenset({LAUNCHED, INIT_GAME, IN_GAME}),
    "join_game": frozenset({INIT_GAME}),
    "restart_game": frozenset({IN_GAME}),
    "leave_game": frozenset({INIT_GAME, IN_GAME}),
    "game_info": frozenset({IN_GAME}),
    "data": frozenset({IN_GAME}),
    "observation": frozenset({IN_GAME}),
    "action": frozenset({IN_GAME}),
    "step": frozenset({IN_GAME}),
    "debug": frozenset({IN_GAME}),
    "save_replay": frozenset({IN_GAME}),
}
"""Request -> the statuses in which it is taken."""

MOST_LOOPS = 1 << 19
"""The API's own end of time."""


class RequestError(Exception):
    """A request that cannot be met; the message goes back as the response's `error`."""


class Game:
    """One program of the game.

    Args:
        say: told in a line what begins.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self.status = LAUNCHED
        self._say = say
        self._created: sc2api_pb2.RequestCreateGame | None = None
        self._match: Match | None = None
        self._seen: UnitsSeen | None = None

    def answer(self, message: bytes) -> bytes:
        """A serialised `Response` to a serialised `Request`."""
        response = sc2api_pb2.Response()
        try:
            request = sc2api_pb2.Request.FromString(message)
            if request.HasField("id"):
                response.id = request.id
            self._meet(request, response)
        except DecodeError:
            response.error.append("this is no Request of the StarCraft II API")
        except RequestError as error:
            response.error.append(str(error))
        response.status = self.status
        return response.SerializeToString()

    def _meet(self, request: sc2api_pb2.Request, response: sc2api_pb2.Response) -> None:
        name = request.WhichOneof("request")
        if name is None:
            raise RequestError("the request is empty")
        if name not in TAKES:
            raise RequestError(f"{name} is not supported; Skirmish takes {', '.join(TAKES)}")
        if self.status not in TAKES[name]:
            now = sc2api_pb2.Status.Name(self.status)
            fit = sorted(sc2api_pb2.Status.Name(status) for status in TAKES[name])
            raise RequestError(f"{name} does not fit the status {now}; it does {' and '.join(fit)}")
        met: Message = getattr(self, f"_{name}")(getattr(request, name))
        getattr(response, name).CopyFrom(met)

    # ------------------------------------------------------------ from game to game

    def _ping(self, _: Any) -> Message:
        return sc2api_pb2.ResponsePing(
            game_version=GAME_VERSION, data_build=BASE_BUILD, base_build=BASE_BUILD
        )

    def _quit(self, _: Any) -> Message:
        self.status = sc2api_pb2.quit
        return sc2api_pb2.ResponseQuit()

    def _available_maps(self, _: Any) -> Message:
        paths = [f"SMAC_Maps/{name}.SC2Map" for name in map_names()]
        return sc2api_pb2.ResponseAvailableMaps(local_map_paths=paths)

    def _create_game(self, request: sc2api_pb2.RequestCreateGame) -> Message:
        refusal = sc2api_pb2.ResponseCreateGame
        if request.WhichOneof("Map") != "local_map" or not request.local_map.map_path:
            return refusal(
                error=refusal.MissingMap,
                error_details="name a map by local_map.map_path, as SMAC_Maps/3m.SC2Map",
            )
        name = _map_name(request)
        if name not in map_names():
            return refusal(
                error=refusal.InvalidMapPath,
                error_details=f"no map {name!r}{nearest(name, map_names())}",
            )
        kinds = [player.type for player in request.player_setup]
        if not kinds:
            return refusal(error=refusal.MissingPlayerSetup)
        if kinds.count(sc2api_pb2.Participant) != 1 or sc2api_pb2.Observer in kinds:
            return refusal(
                error=refusal.InvalidPlayerSetup,
                error_details="one Participant plays, against the map's own units",
            )
        if request.realtime:
            raise RequestError("realtime is not supported: battles go on by `step` alone")
        self._created = sc2api_pb2.RequestCreateGame()
        self._created.CopyFrom(request)
        self._created.local_map.ClearField("map_data")  # a placeholder, or the game's own
        self._match = None
        self.status = INIT_GAME
        return refusal()

    def _join_game(self, request: sc2api_pb2.RequestJoinGame) -> Message:
        refusal = sc2api_pb2.ResponseJoinGame
        if request.WhichOneof("participation") != "race":
            return refusal(
                error=refusal.MissingParticipation, error_details="join with a race, as a player"
            )
        if not request.options.raw:
            return refusal(error=refusal.MissingOptions, error_details="ask for options.raw")
        if request.options.HasField("feature_layer") or request.options.HasField("render"):
            return refusal(
                error=refusal.FeatureUnsupported,
                error_details="nothing is drawn: there are neither feature layers nor pictures",
            )
        assert self._created is not None  # or the status would not be init_game
        seed = secrets.randbits(32)
        if self._created.HasField("random_seed"):
            seed = self._created.random_seed
        name = _map_name(self._created)
        self._match = Match(load_scenario(name), seed)
        self._seen = UnitsSeen(self._match)
        self._say(f"{name}, seed {seed}")
        self.status = IN_GAME
        return refusal(player_id=OURS)

    def _restart_game(self, _: Any) -> Message:
        self._in_game.restart()
        return sc2api_pb2.ResponseRestartGame()

    def _leave_game(self, _: Any) -> Message:
        self._match = self._seen = None
        self.status = LAUNCHED
        return sc2api_pb2.ResponseLeaveGame()

    # ---------------------------------------------------------------------- in one

    @property
    def _in_game(self) -> Match:
        assert self._match is not None  # there is one whenever the status is in_game
        return self._match

    def _game_info(self, _: Any) -> Message:
        assert self._created is not None
        return game_info(self._in_game, self._created.local_map.map_path)

    def _data(self, request: sc2api_pb2.RequestData) -> Message:
        return game_data(self._in_game, request)

    def _observation(self, _: Any) -> Message:
        assert self._seen is not None
        return self._seen.observation()

    def _action(self, request: sc2api_pb2.RequestAction) -> Message:
        results: list[Any] = []
        orders: dict[int, Order] = {}
        for action in request.actions:
            try:
                orders.update(read_action(action, self._in_game))
                results.append(error_pb2.Success)
            except RefusedError as refused:
                results.append(refused.code)
        self._in_game.order(orders)
        return sc2api_pb2.ResponseAction(result=results)

    def _step(self, request: sc2api_pb2.RequestStep) -> Message:
        count = request.count or 1
        if count > MOST_LOOPS:
            raise RequestError(
                f"a step of {count} game loops is past the end of time, {MOST_LOOPS}"
            )
        self._in_game.step(count)
        return sc2api_pb2.ResponseStep(simulation_loop=self._in_game.game_loop)

    def _debug(self, request: sc2api_pb2.RequestDebug) -> Message:
        match = self._in_game
        for command in request.debug:
            name = command.WhichOneof("command")
            if name != "kill_unit":
                raise RequestError(f"debug {name} is not supported; kill_unit is")
            rows = (match.row(tag) for tag in command.kill_unit.tag)
            match.kill([row for row in rows if row is not None])
        return sc2api_pb2.ResponseDebug()

    def _save_replay(self, _: Any) -> Message:
        """The battle so far: what it began with, and all orders as [loop, agent, order, target, x,
        y] in the numbers of `world.py`. The game's own format is not written."""
        match = self._in_game
        kept = {"map": match.scenario.name, "seed": match.seed, "battle": match.number}
        orders = [
            [loop, row, *order] for loop, orders in match.told for row, order in orders.items()
        ]
        data = json.dumps({"format": "unmix-orders", "version": 1, **kept, "orders": orders})
        return sc2api_pb2.ResponseSaveReplay(data=data.encode())


def _map_name(request: sc2api_pb2.RequestCreateGame) -> str:
    """The map by its file's name: maps' own bytes are not read."""
    return PurePosixPath(request.local_map.map_path.replace("\\", "/")).stem
