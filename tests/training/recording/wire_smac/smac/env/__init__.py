"""A stand-in for oxwhirl's smac, of which it has what a recorder uses: it begins battles on a
server of StarCraft II's API that is already up. Its game breaks off where it is told to."""

from __future__ import annotations

import os
from typing import Any

from s2clientprotocol import sc2api_pb2

from tests.training.envs.sc2_client import Sc2Client
from training.recording.skirmish import Battles, Controller

PORT, BREAKS_OFF_ON = "WIRE_SMAC_PORT", "WIRE_SMAC_BREAKS_OFF_ON"


class StarCraft2Env:
    def __init__(self, map_name: str, seed: int) -> None:
        self._client = Sc2Client(int(os.environ[PORT]))
        self._controller = Controller(lambda r: self._client.send_bytes(r.SerializeToString()))
        self._battles = Battles(self._controller, map_name, seed)
        self._breaks_off = os.environ.get(BREAKS_OFF_ON) == map_name
        self._episode_count = 0
        self._launched = False

    def full_restart(self) -> None:
        raise AssertionError("nobody should go on with a game of SMAC's own making")

    def reset(self) -> Any:
        if self._breaks_off:
            self.full_restart()
        assert self._launched == (self._episode_count > 0), "SMAC would launch a second game"
        self._launched = True
        self._battles.begin()

    def close(self) -> None:
        self._controller.ask(leave_game=sc2api_pb2.RequestLeaveGame())
        self._client.close()
