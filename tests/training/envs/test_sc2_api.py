"""StarCraft II's API: what SMAC sends, and what it reads of the answers.

Expected values are the API's, SMAC's (spec §6) and the game's (spec §1, §4). The server is a
process of its own, as the game is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("s2clientprotocol.sc2api_pb2", reason="the extra sc2 is not installed")

from s2clientprotocol import common_pb2, debug_pb2, error_pb2, query_pb2, raw_pb2, sc2api_pb2
from websockets.exceptions import InvalidStatus

from tests.training.envs.sc2_client import ATTACK, HEAL, MOVE, STOP, Sc2Client, point
from tests.training.envs.sc2_servers import by_hand, running
from training.envs.sc2_api.game import TAKES
from training.envs.sc2_api.installation import InstallationError, install
from training.envs.starcraft2 import StarCraft2Env
from training.sc2_api import as_the_game, main

N_NON_ATTACK = 6
OURS, THEIRS = 1, 2


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(by_hand()) as (_, port):
        yield port


@pytest.fixture
def client(port: int) -> Iterator[Sc2Client]:
    client = Sc2Client(port)
    if client.send(ping=sc2api_pb2.RequestPing()).status != sc2api_pb2.launched:
        client.send(leave_game=sc2api_pb2.RequestLeaveGame())
    yield client
    client.close()


# ------------------------------------------------------------------ from game to game


def test_statuses_follow_one_another_as_smac_begins_a_game(client: Sc2Client) -> None:
    ping = client.send(ping=sc2api_pb2.RequestPing())
    assert ping.ping.base_build == 75689
    created = client.create("SMAC_Maps/3m.SC2Map", seed=1)
    assert created.status == sc2api_pb2.init_game
    assert not created.create_game.HasField("error")
    joined = client.join()
    assert (joined.status, joined.join_game.player_id) == (sc2api_pb2.in_game, OURS)
    again = client.create("SMAC_Maps/8m.SC2Map")  # as SMAC does after a broken connection
    assert (again.status, list(again.error)) == (sc2api_pb2.init_game, [])
    assert client.join().status == sc2api_pb2.in_game
    assert len(client.units(OURS)) == 8
    assert client.send(leave_game=sc2api_pb2.RequestLeaveGame()).status == sc2api_pb2.launched


def test_a_request_that_does_not_fit_the_status_is_an_error_and_changes_nothing(
    client: Sc2Client,
) -> None:
    for name in ("step", "observation", "action", "game_info", "data", "debug", "save_replay"):
        answer = client.send(**{name: getattr(sc2api_pb2, _class(name))()})
        assert answer.error == [f"{name} does not fit the status launched; it does in_game"]
        assert answer.status == sc2api_pb2.launched
    assert client.join().error == ["join_game does not fit the status launched; it does init_game"]
    client.begin("3m")
    assert client.join().error == ["join_game does not fit the status in_game; it does init_game"]
    assert client.step(1).status == sc2api_pb2.in_game


def _class(name: str) -> str:
    return "Request" + "".join(word.capitalize() for word in name.split("_"))


def test_responses_carry_the_id_of_their_request(client: Sc2Client) -> None:
    for number in (1, 999999999):
        request = sc2api_pb2.Request(id=number, ping=sc2api_pb2.RequestPing())
        assert client.send_bytes(request.SerializeToString()).id == number
    nameless = sc2api_pb2.Request(ping=sc2api_pb2.RequestPing())
    assert not client.send_bytes(nameless.SerializeToString()).HasField("id")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\xff\xff", "this is no Request of the StarCraft II API"),
        (b"", "the request is empty"),
        (
            sc2api_pb2.Request(query=query_pb2.RequestQuery()).SerializeToString(),
            f"query is not supported; Skirmish takes {', '.join(TAKES)}",
        ),
    ],
)
def test_what_is_no_request_is_answered_with_an_error(
    client: Sc2Client, message: bytes, error: str
) -> None:
    answer = client.send_bytes(message)
    assert (list(answer.error), answer.status) == ([error], sc2api_pb2.launched)
    assert not client.send(ping=sc2api_pb2.RequestPing()).error  # and the game goes on


def test_games_that_cannot_be_created(client: Sc2Client) -> None:
    codes = sc2api_pb2.ResponseCreateGame
    unknown = client.create("SMAC_Maps/3s5x.SC2Map")
    assert unknown.create_game.error == codes.InvalidMapPath
    assert unknown.create_game.error_details == "no map '3s5x'; did you mean '3s5z'?"
    assert unknown.status == sc2api_pb2.launched
    assert client.create("").create_game.error == codes.MissingMap
    # A file's name is looked up among the maps, never opened.
    assert client.create("../../secret.json.SC2Map").create_game.error == codes.InvalidMapPath

    def create(*players: Any, **more: Any) -> sc2api_pb2.Response:
        setup = [sc2api_pb2.PlayerSetup(type=kind) for kind in players]
        game = sc2api_pb2.RequestCreateGame(
            local_map=sc2api_pb2.LocalMap(map_path="3m.SC2Map"), player_setup=setup, **more
        )
        return client.send(create_game=game)

    human, computer = sc2api_pb2.Participant, sc2api_pb2.Computer
    assert create().create_game.error == codes.MissingPlayerSetup
    assert create(human, human).create_game.error == codes.InvalidPlayerSetup
    assert create(computer).create_game.error == codes.InvalidPlayerSetup
    live = create(human, computer, realtime=True)
    assert list(live.error) == ["realtime is not supported: battles go on by `step` alone"]
    assert create(human, computer).status == sc2api_pb2.init_game


def test_games_that_cannot_be_joined(client: Sc2Client) -> None:
    codes = sc2api_pb2.ResponseJoinGame
    client.create("SMAC_Maps/3m.SC2Map")

    def join(**given: Any) -> int:
        answer = client.send(join_game=sc2api_pb2.RequestJoinGame(**given))
        assert answer.status == sc2api_pb2.init_game
        error: int = answer.join_game.error
        return error

    race = common_pb2.Terran
    assert join() == codes.MissingParticipation
    assert join(observed_player_id=1) == codes.MissingParticipation
    assert join(race=race) == codes.MissingOptions
    drawn = sc2api_pb2.InterfaceOptions(raw=True)
    drawn.feature_layer.width = 24
    assert join(race=race, options=drawn) == codes.FeatureUnsupported
    assert client.join().status == sc2api_pb2.in_game


def test_available_maps_are_the_files_that_can_be_created(client: Sc2Client) -> None:
    answer = client.send(available_maps=sc2api_pb2.RequestAvailableMaps())
    paths = answer.available_maps.local_map_paths
    assert "SMAC_Maps/2c_vs_64zg.SC2Map" in paths
    assert len(paths) == 24  # SMAC's 23 and 5m


# ---------------------------------------------------------------------------- the map


def test_the_map_is_told_as_the_game_tells_it(client: Sc2Client) -> None:
    client.begin("corridor")
    info = client.send(game_info=sc2api_pb2.RequestGameInfo()).game_info
    raw = info.start_raw
    assert (raw.map_size.x, raw.map_size.y) == (32, 32)
    area = raw.playable_area
    assert (area.p0.x, area.p0.y, area.p1.x, area.p1.y) == (0, 0, 32, 32)
    assert raw.pathing_grid.bits_per_pixel == 1
    assert len(raw.pathing_grid.data) == 32 * 4
    # Spec §1.4: row y = 3 is x 1-12, row y = 20 is x 11-30, row y = 31 is closed.
    assert raw.pathing_grid.data[3 * 4 : 4 * 4] == bytes([0b01111111, 0b11111000, 0, 0])
    assert raw.pathing_grid.data[20 * 4 : 21 * 4] == bytes([0, 0b00011111, 0xFF, 0b11111110])
    assert raw.pathing_grid.data[31 * 4 :] == bytes(4)
    heights = raw.terrain_height.data
    assert (len(heights), heights[31 * 32], heights[3 * 32 + 5]) == (1024, 128, 138)
    assert [(p.player_id, p.race_actual) for p in info.player_info] == [
        (OURS, common_pb2.Protoss),
        (THEIRS, common_pb2.Zerg),
    ]


def test_data_has_the_units_and_the_four_abilities(client: Sc2Client) -> None:
    client.begin("3s5z")
    data = client.send(data=sc2api_pb2.RequestData(ability_id=True, unit_type_id=True)).data
    assert {ability.ability_id for ability in data.abilities} == {STOP, MOVE, ATTACK, HEAL}
    kinds = {unit.unit_id: unit for unit in data.units}
    names = {number: unit.name for number, unit in kinds.items()}
    assert names == {2000: "Stalker_RL", 2001: "Zealot_RL", 73: "Zealot", 74: "Stalker"}
    (weapon,) = kinds[73].weapons
    assert (weapon.damage, weapon.attacks, weapon.type) == (8, 2, weapon.Ground)
    assert weapon.speed == pytest.approx(1.2)  # spec §4
    assert not client.send(data=sc2api_pb2.RequestData()).data.units


# ----------------------------------------------------------------------------- units


def test_the_first_observation_has_both_teams_whole(client: Sc2Client) -> None:
    client.begin("2s3z", seed=3)
    seen = client.observe().observation
    assert seen.game_loop != 2**32 - 1  # which would be the game's stub after its end
    units = seen.raw_data.units
    assert [u.unit_type for u in units if u.owner == OURS] == [2000] * 2 + [2001] * 3
    assert [u.unit_type for u in units if u.owner == THEIRS] == [74] * 2 + [73] * 3
    assert len({unit.tag for unit in units}) == 10
    stalker = units[0]
    whole = (stalker.health, stalker.health_max, stalker.shield, stalker.shield_max)
    assert whole == (80, 80, 80, 80)
    assert stalker.weapon_cooldown == 0
    ours = np.mean([(u.pos.x, u.pos.y) for u in units if u.owner == OURS], axis=0)
    assert ours == pytest.approx((9, 16), abs=0.5)  # spec §1.3


def test_a_medivac_has_energy_and_flies(client: Sc2Client) -> None:
    client.begin("MMM")
    medivac = client.units(OURS)[9]
    assert (medivac.unit_type, medivac.energy, medivac.energy_max) == (2002, 50, 200)
    assert medivac.is_flying


def test_a_move_is_walked_and_reported(client: Sc2Client) -> None:
    client.begin("3m")
    before = client.units(OURS)[0]
    to = point(before.pos.x - 2, before.pos.y)
    assert client.command(before.tag, MOVE, target_world_space_pos=to) == error_pb2.Success
    (order,) = client.units(OURS)[0].orders
    assert (order.ability_id, order.target_world_space_pos.x) == (MOVE, before.pos.x - 2)
    assert client.step(8).step.simulation_loop == 9
    after = client.units(OURS)[0]
    # 2.25 a game second of 16 loops, in multiples of 1/4096 a loop
    assert before.pos.x - after.pos.x == pytest.approx(1.125, abs=8 / 4096)
    assert after.pos.y == before.pos.y
    assert client.command(before.tag, STOP) == error_pb2.Success
    client.step(8)
    assert client.units(OURS)[0].pos.x == after.pos.x
    assert not client.units(OURS)[0].orders


def test_an_attack_harms_its_target(client: Sc2Client) -> None:
    client.begin("2m_vs_1z", seed=1)
    ours, (zealot,) = client.units(OURS), client.units(THEIRS)
    for marine in ours:
        assert client.command(marine.tag, ATTACK, target_unit_tag=zealot.tag) == error_pb2.Success
    assert [m.engaged_target_tag for m in client.units(OURS)] == [zealot.tag] * 2
    client.step(40)
    (after,) = client.units(THEIRS)
    assert after.tag == zealot.tag
    lost = 50 - after.shield
    assert lost > 0  # 6 a shot, and the shield takes all of it
    assert lost % 6 == 0
    assert any(marine.weapon_cooldown > 0 for marine in client.units(OURS))


def test_the_dead_are_gone_and_named_once(client: Sc2Client) -> None:
    client.begin("3m")
    ours, theirs = client.units(OURS), client.units(THEIRS)
    answer = client.kill([ours[1].tag, theirs[0].tag, 987654321])
    assert not answer.error
    seen = client.observe().observation.raw_data
    assert [unit.tag for unit in seen.units] == [
        *(ours[i].tag for i in (0, 2)),
        *(theirs[i].tag for i in (1, 2)),
    ]
    assert sorted(seen.event.dead_units) == sorted([ours[1].tag, theirs[0].tag])
    assert not client.observe().observation.raw_data.event.dead_units
    assert client.command(ours[1].tag, STOP) == error_pb2.Error
    client.step(8)
    assert len(client.units(OURS)) == 2


@pytest.mark.parametrize(
    ("name", "ability", "target", "result"),
    [
        ("ours", 3674, None, error_pb2.NotSupported),  # not one that SMAC names
        ("theirs", STOP, None, error_pb2.Error),
        ("nobody", STOP, None, error_pb2.Error),
        ("ours", MOVE, "theirs", error_pb2.NotSupported),
        ("ours", MOVE, None, error_pb2.NotSupported),
        ("ours", ATTACK, None, error_pb2.NotSupported),
        ("ours", ATTACK, "ally", error_pb2.CantTargetThatUnit),
        ("ours", ATTACK, "nobody", error_pb2.CantTargetThatUnit),
        ("ours", HEAL, "ally", error_pb2.CantTargetThatUnit),  # a marine heals nobody
        ("medivac", HEAL, "ally", error_pb2.CantTargetThatUnit),  # who is unhurt
        ("marauder", ATTACK, "their medivac", error_pb2.CantTargetThatUnit),  # shoots no flyers
        ("medivac", ATTACK, "theirs", error_pb2.CantTargetThatUnit),  # has no weapon
    ],
)
def test_orders_that_are_not_followed(
    client: Sc2Client, name: str, ability: int, target: str | None, result: int
) -> None:
    client.begin("MMM")
    ours, theirs = client.units(OURS), client.units(THEIRS)
    tags = {"marauder": ours[0].tag, "ours": ours[2].tag, "ally": ours[3].tag}
    tags |= {"medivac": ours[9].tag, "theirs": theirs[0].tag, "nobody": 987654321}
    tags["their medivac"] = next(unit.tag for unit in theirs if unit.unit_type == 54)
    aim = {"target_unit_tag": tags[target]} if target is not None else {}
    assert client.command(tags[name], ability, **aim) == result
    assert not any(unit.orders for unit in client.units(OURS))


def test_points_and_queues_that_are_not_followed(client: Sc2Client) -> None:
    client.begin("3m")
    tag = client.units(OURS)[0].tag
    for x in (float("nan"), float("inf"), 1e9):
        to = point(x, 16)
        assert client.command(tag, MOVE, target_world_space_pos=to) == error_pb2.Error
    queued = raw_pb2.ActionRawUnitCommand(ability_id=STOP, unit_tags=[tag], queue_command=True)
    chat = sc2api_pb2.Action(action_chat=sc2api_pb2.ActionChat(message="gg"))
    raw = sc2api_pb2.Action(action_raw=raw_pb2.ActionRaw(unit_command=queued))
    actions = [raw, chat, sc2api_pb2.Action()]
    answer = client.send(action=sc2api_pb2.RequestAction(actions=actions))
    refused = error_pb2.NotSupported
    assert list(answer.action.result) == [refused, refused, error_pb2.Success]
    assert list(client.send(action=sc2api_pb2.RequestAction()).action.result) == []


def test_steps_and_debug_commands_that_are_refused(client: Sc2Client) -> None:
    client.begin("3m")
    long = client.step((1 << 19) + 1)
    assert "past the end of time" in long.error[0]
    made = debug_pb2.DebugCommand(create_unit=debug_pb2.DebugCreateUnit(unit_type=48, owner=1))
    answer = client.send(debug=sc2api_pb2.RequestDebug(debug=[made]))
    assert list(answer.error) == ["debug create_unit is not supported; kill_unit is"]
    assert client.step(0).step.simulation_loop == 2  # one loop is the least


# --------------------------------------------------------------------------- restarts


def test_killing_all_brings_the_next_battle_after_two_loops(client: Sc2Client) -> None:
    client.begin("3m", seed=5)
    first = client.observe().observation.raw_data.units
    client.kill([unit.tag for unit in first])
    assert not client.observe().observation.raw_data.units
    client.step(1)
    assert not client.observe().observation.raw_data.units
    client.step(1)
    second = client.observe().observation.raw_data.units
    assert [unit.unit_type for unit in second] == [unit.unit_type for unit in first]
    assert not {unit.tag for unit in second} & {unit.tag for unit in first}
    assert [unit.health for unit in second] == [45] * 6
    client.kill([unit.tag for unit in second])
    client.step(2)  # as SMAC does
    assert len(client.units(OURS)) == 3


def test_killing_nobody_begins_nothing(client: Sc2Client) -> None:
    client.begin("3m")
    tags = [unit.tag for unit in client.units(OURS)]
    client.kill([])
    client.step(2)
    assert [unit.tag for unit in client.units(OURS)] == tags


def test_restart_game_is_the_seeds_next_battle(client: Sc2Client) -> None:
    """Battle 1 is the same, whichever way it begins."""
    client.begin("2m_vs_1z", seed=9)
    client.send(restart_game=sc2api_pb2.RequestRestartGame())
    client.step(8)
    restarted = _places(client)
    client.begin("2m_vs_1z", seed=9)
    client.step(8)
    assert _places(client) != restarted  # that was battle 0: the zealot has gone elsewhere
    client.kill([unit.tag for unit in client.observe().observation.raw_data.units])
    client.step(2)
    client.step(8)
    assert _places(client) == restarted


def _places(client: Sc2Client) -> list[tuple[float, float]]:
    return [(u.pos.x, u.pos.y) for u in client.observe().observation.raw_data.units]


def test_a_replay_holds_what_the_battle_began_with_and_its_orders(client: Sc2Client) -> None:
    client.begin("3m", seed=12)
    client.step(3)
    client.command(client.units(OURS)[1].tag, STOP)
    data = client.send(save_replay=sc2api_pb2.RequestSaveReplay()).save_replay.data
    kept = json.loads(data)
    assert (kept["map"], kept["seed"], kept["battle"]) == ("3m", 12, 0)
    assert kept["orders"] == [[3, 1, 0, -1, 0.0, 0.0]]


# ----------------------------------------------------------------------- whole battles


@pytest.mark.parametrize("map_name", ["2s3z", "MMM"])
def test_whole_battles_are_those_of_starcraft2env(client: Sc2Client, map_name: str) -> None:
    """Two battles, the agents' actions sent as SMAC sends them: every unit equal to the bit."""
    env, choose = StarCraft2Env(map_name, seed=21), np.random.default_rng(4)
    client.begin(map_name, seed=21)
    for battle in range(2):
        if battle:
            client.kill([unit.tag for unit in client.observe().observation.raw_data.units])
            client.step(2)
        env.reset()
        seen = client.observe().observation.raw_data.units
        tags = [unit.tag for unit in seen]
        terminated = False
        while not terminated:
            living = {unit.tag: unit for unit in seen}
            _assert_same(env, living, tags)
            rows = env.get_avail_actions()
            actions = [int(choose.choice(np.flatnonzero(row)[-4:])) for row in rows]
            commands = [_as_smac(env, tags, living, i, a) for i, a in enumerate(actions) if a]
            client.send(action=sc2api_pb2.RequestAction(actions=commands))
            client.step(8)
            _, terminated, _ = env.step(actions)
            seen = client.observe().observation.raw_data.units
        _assert_same(env, {unit.tag: unit for unit in seen}, tags)


def _assert_same(env: StarCraft2Env, living: dict[int, raw_pb2.Unit], tags: list[int]) -> None:
    for tag, unit in zip(tags, [*env.agents.values(), *env.enemies.values()], strict=True):
        assert (unit.health > 0) == (tag in living)
        if unit.health > 0:
            seen = living[tag]
            assert (seen.pos.x, seen.pos.y) == tuple(unit.pos)
            assert (seen.health, seen.shield) == (unit.health, unit.shield)
            assert seen.energy == unit.energy
            assert seen.weapon_cooldown == max(unit.weapon_cooldown, 0)


def _as_smac(
    env: StarCraft2Env, tags: list[int], living: dict[int, raw_pb2.Unit], agent: int, action: int
) -> sc2api_pb2.Action:
    """The command by which SMAC says this action (spec §2.2)."""
    unit, aim = living[tags[agent]], action - N_NON_ATTACK
    command = raw_pb2.ActionRawUnitCommand(unit_tags=[unit.tag], queue_command=False)
    if action == 1:
        command.ability_id = STOP
    elif aim < 0:
        dx, dy = [(0, 2), (0, -2), (2, 0), (-2, 0)][action - 2]
        command.ability_id = MOVE
        command.target_world_space_pos.x = unit.pos.x + dx
        command.target_world_space_pos.y = unit.pos.y + dy
    else:
        heals = unit.unit_type == 2002 and env.map_type == "MMM"
        command.ability_id = HEAL if heals else ATTACK
        command.target_unit_tag = tags[aim if heals else env.n_agents + aim]
    return sc2api_pb2.Action(action_raw=raw_pb2.ActionRaw(unit_command=command))


# ----------------------------------------------------------------- clients and programs


def test_one_client_at_a_time_and_the_game_waits_for_the_next(port: int) -> None:
    first = Sc2Client(port)
    first.create("SMAC_Maps/3m.SC2Map")
    with pytest.raises(InvalidStatus, match="503"):
        Sc2Client(port)
    first.close()
    second = Sc2Client(port)
    assert second.send(ping=sc2api_pb2.RequestPing()).status == sc2api_pb2.init_game
    second.join()
    second.send(leave_game=sc2api_pb2.RequestLeaveGame())
    second.close()


def test_the_game_is_found_at_its_path_alone(port: int) -> None:
    from websockets.sync.client import connect

    with pytest.raises(InvalidStatus, match="404"), connect(f"ws://127.0.0.1:{port}/"):
        pass


def as_pysc2_starts_it(folder: Path) -> list[str]:
    """Its command line on Linux (spec §6.1), with flags of other times beside it."""
    program = str(folder / "Versions" / "Base75689" / "SC2_x64")
    there = ["-listen", "127.0.0.1", "-port", "0", "-dataDir", f"{folder}/", "-tempDir", "/tmp/x/"]
    return [program, *there, "-eglpath", "libEGL.so", "-verbose", "-dataVersion", "B89B5D6FA7CB"]


def test_an_installed_game_ends_when_it_is_told_to(tmp_path: Path) -> None:
    folder = install(tmp_path / "with space")
    assert (folder / "Maps" / "SMAC_Maps" / "3s5z.SC2Map").read_bytes()
    with running(as_pysc2_starts_it(folder)) as (process, port):
        client = Sc2Client(port)
        client.begin("3m")
        assert client.send(quit=sc2api_pb2.RequestQuit()).status == sc2api_pb2.quit
        assert process.wait(20) == 0


def test_an_installed_game_goes_with_its_client(tmp_path: Path) -> None:
    with running(as_pysc2_starts_it(install(tmp_path))) as (process, port):
        Sc2Client(port).close()
        assert process.wait(20) == 0


def test_installing_twice_is_once_and_the_real_game_is_left_alone(tmp_path: Path) -> None:
    program = install(tmp_path) / "Versions" / "Base75689" / "SC2_x64"
    kept = program.read_bytes()
    install(tmp_path)
    assert program.read_bytes() == kept
    program.write_bytes(b"\x7fELF\xff the real game")
    with pytest.raises(InstallationError, match="name another folder"):
        install(tmp_path)
    assert program.read_bytes() == b"\x7fELF\xff the real game"


def test_a_port_that_is_taken_is_said(port: int) -> None:
    serve = [sys.executable, "-m", "training.sc2_api", "serve", "--port", str(port)]
    done = subprocess.run(serve, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen at 127.0.0.1:{port}: " in done.stderr


def test_the_games_command_line_needs_its_port(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        as_the_game(["-listen", "127.0.0.1"])
    assert "-port" in capsys.readouterr().err


def test_a_missing_package_is_said_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(SystemExit, match=r"websockets.*pip install 'unmix\[sc2\]'"):
        main(["install", str(tmp_path / "game")])
    assert not (tmp_path / "game").exists()
