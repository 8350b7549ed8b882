"""Recording the game, and Skirmish beside it: what is played over the wire is the same, and what is
planted is named."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s2clientprotocol.sc2api_pb2", reason="the extra sc2 is not installed")

from tests.training.envs.games import CHECKOUT, lay_out
from tests.training.envs.sc2_servers import by_hand, running
from training import compare as compare_command
from training import record as record_command
from training.envs.smac.recorder import MOST_STEPS, UNIT, as_units
from training.recording.differences import Row, compare
from training.recording.file import read_recording
from training.recording.skirmish import Again, record_skirmish

WIRE_SMAC = Path(__file__).parent / "wire_smac"
PORT, BREAKS_OFF_ON = "WIRE_SMAC_PORT", "WIRE_SMAC_BREAKS_OFF_ON"
MAPS = ("3m", "MMM")
Recorded = dict[str, Any]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """SMAC and the game, as far as `training.record` can tell."""
    with running(by_hand()) as (_, port), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SC2PATH", str(lay_out(tmp_path_factory.mktemp("game"), *MAPS)))
        monkeypatch.setenv("PYTHONPATH", f"{WIRE_SMAC}:{CHECKOUT}")
        monkeypatch.setenv("UNMIX_SMAC_PYTHON", sys.executable)
        monkeypatch.setenv(PORT, str(port))
        yield monkeypatch


@pytest.fixture(scope="module")
def file(environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recording") / "game.json.gz"
    arguments = ["--env", "smac", "--maps", *MAPS, "--seed", "7", "-o", str(file)]
    assert record_command.main(arguments) == 0
    return file


@pytest.fixture(scope="module")
def of_3m(file: Path) -> Recorded:
    told: Recorded = read_recording(file)["maps"]["3m"]
    return told


@pytest.fixture(scope="module")
def skirmish(of_3m: Recorded) -> Recorded:
    return record_skirmish("3m", of_3m)


def changed(recorded: Recorded, change: Callable[[Recorded], None]) -> Recorded:
    other = copy.deepcopy(recorded)
    change(other)
    return other


def differing(game: Recorded, skirmish: Recorded) -> list[tuple[str, str]]:
    return [(row.part, row.quantity) for row in compare(game, skirmish) if not row.equal]


# ------------------------------------------------------------------------ recording


def test_a_recording_holds_what_the_game_has_shown(of_3m: Recorded) -> None:
    assert of_3m["seed"] == 7
    assert of_3m["game_info"]["map_size"] == [32, 32]
    assert len(base64.b64decode(of_3m["game_info"]["pathing_grid"]["data"])) == 128
    assert [kind["name"] for kind in of_3m["unit_types"]] == ["Marine", "Marine_RL"]
    assert of_3m["unit_types"][0]["weapons"][0]["damage"] == 6
    assert [len(reset["units"]) for reset in of_3m["resets"]] == [6] * 5
    # One loop in at first; each killing then takes two.
    assert [reset["game_loop"] for reset in of_3m["resets"]] == [1, 3, 5, 7, 9]
    tags = {unit["tag"] for reset in of_3m["resets"] for unit in as_units(reset["units"])}
    assert len(tags) == 30


def test_the_battle_goes_on_until_a_side_is_gone(of_3m: Recorded) -> None:
    steps = of_3m["episode"]
    assert 5 < len(steps) < MOST_STEPS
    assert [step["game_loop"] for step in steps] == [17 + 8 * i for i in range(len(steps))]
    owners = [{unit["owner"] for unit in as_units(step["units"])} for step in steps]
    assert owners[-1] != {1, 2}
    assert all(seen == {1, 2} for seen in owners[:-1])
    assert {order["ability"] for step in steps for order in step["orders"]} == {4, 16, 23}
    assert all(len(step["orders"]) == len(step["results"]) for step in steps)


def test_healers_are_told_to_heal(file: Path) -> None:
    told = read_recording(file)["maps"]["MMM"]
    medivac = max(unit["unit_type"] for unit in as_units(told["resets"][-1]["units"]))
    tag = next(
        unit["tag"]
        for unit in as_units(told["resets"][-1]["units"])
        if unit["unit_type"] == medivac
    )
    abilities = {o["ability"] for s in told["episode"] for o in s["orders"] if o["unit"] == tag}
    assert 386 in abilities
    assert 23 not in abilities


def test_it_ends_with_the_game_and_keeps_the_maps_that_are_done(
    environment: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environment.setenv(BREAKS_OFF_ON, "MMM")
    file = tmp_path / "game.json.gz"
    assert record_command.main(["--env", "smac", "--maps", *MAPS, "-o", str(file)]) == 1
    environment.delenv(BREAKS_OFF_ON)
    said = capfd.readouterr()
    assert "RuntimeError: the game has broken off" in said.err
    assert "the maps named above are in the file" in said.err
    assert list(read_recording(file)["maps"]) == ["3m"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--map", "3n", "-o", "x"], "SMAC has no map '3n'"),
        (["--map", "3m", "-o", "nowhere/x"], "there is no folder"),
        (["--map", "8m", "-o", "x"], "8m missing in"),
    ],
)
def test_what_cannot_be_recorded_is_said_before_anything_starts(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        record_command.main(["--env", "smac", *arguments])
    assert said in f"{stopped.value} {capsys.readouterr().err}"


def test_a_python_without_smac_says_so(
    environment: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
        assert record_command.main(["--env", "smac", "--map", "3m", "-o", str(tmp_path / "x")]) == 1
    assert "has no SMAC: install it as docs/environments.md says" in capfd.readouterr().err
    assert not (tmp_path / "x").exists()


# ------------------------------------------------------------------------ comparing


def test_skirmish_over_the_wire_is_skirmish(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_command.main([str(file)]) == 0
    said = capsys.readouterr().out
    assert "the game: 4.10.0.75689" in said
    assert said.count(" 0 differ") == len(MAPS)


def test_a_moved_spawn_is_named(of_3m: Recorded, skirmish: Recorded) -> None:
    def move(recorded: Recorded) -> None:
        units = recorded["resets"][2]["units"]
        units[4][UNIT.index("x")] -= 0.25  # the second enemy; marines stand 0.75 apart

    rows = compare(changed(of_3m, move), skirmish)
    (row,) = [row for row in rows if not row.equal]
    assert (row.part, row.quantity, row.difference) == ("beginning 2", "enemy 1 x", 0.25)


def test_a_grid_cell_is_named(of_3m: Recorded, skirmish: Recorded) -> None:
    def block(recorded: Recorded) -> None:
        grid = recorded["game_info"]["pathing_grid"]
        packed = bytearray(base64.b64decode(grid["data"]))
        packed[16 * 4 + 1] ^= 0b00000100  # row 16; the second byte's bit 5 from the left
        grid["data"] = base64.b64encode(packed).decode()

    rows = compare(changed(of_3m, block), skirmish)
    assert [row for row in rows if not row.equal] == [Row("pathing_grid", "cell (13, 16)", 0, 1, 1)]


def test_unit_numbers_are_named(of_3m: Recorded, skirmish: Recorded) -> None:
    def stronger(recorded: Recorded) -> None:
        recorded["unit_types"][0]["weapons"][0]["damage"] = 7.0
        for reset in recorded["resets"]:
            for unit in reset["units"][3:]:
                unit[UNIT.index("health_max")] = 55.0

    rows = [row for row in compare(changed(of_3m, stronger), skirmish) if not row.equal]
    assert rows == [
        Row("enemy type 0", "weapon 0 damage", 7.0, 6.0, -1.0),
        Row("enemy type 0", "health_max", 55.0, 45.0, -10.0),
    ]


def test_agents_types_may_have_other_numbers(of_3m: Recorded, skirmish: Recorded) -> None:
    def renumber(recorded: Recorded) -> None:
        recorded["unit_types"][1]["unit_id"] = 1970
        for told in (*recorded["resets"], *recorded["episode"]):
            for unit in told["units"]:
                if unit[UNIT.index("owner")] == 1:
                    unit[UNIT.index("unit_type")] = 1970

    assert differing(changed(of_3m, renumber), skirmish) == []


def test_another_order_of_the_enemies_is_named(of_3m: Recorded, skirmish: Recorded) -> None:
    def swap(recorded: Recorded) -> None:
        units = recorded["resets"][1]["units"]
        units[3], units[5] = units[5], units[3]

    rows = [row for row in compare(changed(of_3m, swap), skirmish) if not row.equal]
    assert rows == [Row("beginning 1", "order of enemy units", "2 1 0", "0 1 2", None)]


def test_a_unit_too_many_is_nobodys_twin(of_3m: Recorded, skirmish: Recorded) -> None:
    def double(recorded: Recorded) -> None:
        extra = list(recorded["resets"][0]["units"][0])
        extra[0], extra[UNIT.index("x")] = 99, 3.0
        recorded["resets"][0]["units"].append(extra)

    (row,) = [row for row in compare(changed(of_3m, double), skirmish) if not row.equal]
    assert row.game == "0 1 2 nobody's twin"


def test_a_later_clock_and_tags_used_again_are_named(of_3m: Recorded, skirmish: Recorded) -> None:
    def recycle(recorded: Recorded) -> None:
        recorded["resets"][1]["game_loop"] += 1
        recorded["resets"][1]["units"][0][0] = recorded["resets"][0]["units"][0][0]

    assert differing(changed(of_3m, recycle), skirmish) == [
        ("beginning 1", "game_loop"),
        ("beginning 1", "tags seen before"),
    ]


def test_a_battle_that_goes_another_way_is_followed(of_3m: Recorded) -> None:
    """All orders of the third step and later are told to nobody: in Skirmish they stand."""

    def forget(recorded: Recorded) -> None:
        for step in recorded["episode"][3:]:
            step["orders"] = []

    rows = compare(of_3m, record_skirmish("3m", changed(of_3m, forget)))
    apart = {row.part: row.skirmish for row in rows if row.quantity == "distance at most"}
    assert [apart[f"battle step {i}"] for i in range(3)] == [0, 0, 0]
    assert max(apart.values()) > 0.5
    codes = {row.part: row.skirmish for row in rows if row.quantity == "orders with result 1"}
    assert codes["battle step 2"] == 3
    assert codes["battle step 3"] == 0


def test_a_battle_that_is_over_sooner_is_followed_to_the_end(
    of_3m: Recorded, skirmish: Recorded
) -> None:
    shorter = changed(skirmish, lambda recorded: recorded["episode"].pop())
    rows = [row for row in compare(of_3m, shorter) if not row.equal]
    n = len(of_3m["episode"])
    assert rows[:2] == [
        Row("battle", "steps", n, n - 1, -1),
        Row(f"battle step {n - 1}", "game_loop", 9 + 8 * n, None, None),
    ]
    assert all(row.skirmish in (0, None) for row in rows[1:])


def test_orders_go_to_twins_and_to_nobody_else(of_3m: Recorded) -> None:
    first = as_units(of_3m["resets"][-1]["units"])
    here = [{**unit, "tag": unit["tag"] + 100} for unit in first]
    orders = of_3m["episode"][0]["orders"]
    tags = [order["unit"] + 100 for order in orders]
    assert [order["unit"] for order in Again(of_3m)(here) or []] == tags
    assert [order["unit"] for order in Again(of_3m)(here[1:]) or []] == tags[1:]
    assert Again(of_3m)([]) is None  # a step on the empty field would begin another battle


def test_differences_are_a_table_for_people_and_whole_for_programs(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = json.loads(gzip.decompress(file.read_bytes()))
    del recording["maps"]["MMM"]
    recording["maps"]["3m"]["unit_types"][0]["armor"] = 1.0
    changed_file = tmp_path / "changed.json.gz"
    changed_file.write_bytes(gzip.compress(json.dumps(recording).encode()))
    assert compare_command.main([str(changed_file)]) == 1
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert line == ["enemy", "type", "0", "armor", "1", "0", "-1"]
    assert compare_command.main([str(changed_file), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["maps"]["3m"]
    wanted = Row("enemy type 0", "armor", game=1.0, skirmish=0.0, difference=-1.0)
    assert wanted._asdict() in rows
    assert len(rows) > 3000  # equal ones too: the grids alone have 3,072 cells


def test_people_are_told_of_ever_rarer_steps_and_twelve_rows_of_a_part() -> None:
    rows = [Row(f"battle step {i}", "ally units alive", 3, 2, -1) for i in range(12)]
    rows += [Row("pathing_grid", f"cell (0, {y})", 1, 0, -1) for y in range(15)]
    lines = list(compare_command.table("3m", rows))
    assert lines[0] == "\n3m: 27 numbers, 27 differ"
    steps = [line.split()[2] for line in lines if line.startswith("battle step")]
    assert steps == ["0", "1", "2", "4", "8", "11"]
    grid = [line for line in lines if line.startswith("pathing_grid")]
    assert len(grid) == 13
    assert grid[-1].split(maxsplit=1)[1] == "and 3 more (--json has all)"
    assert list(compare_command.table("3m", [])) == ["\n3m: 0 numbers, 0 differ"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"plain text", "is no gzip'd JSON"),
        (gzip.compress(b"{", mtime=0)[:-4], "is no gzip'd JSON"),
        (gzip.compress(b"not json", mtime=0), "is no gzip'd JSON"),
        (gzip.compress(b"[1]", mtime=0), "is no recording of training.record"),
        (
            gzip.compress(b'{"format": "unmix-orders"}', mtime=0),
            "is no recording of training.record",
        ),
        (
            gzip.compress(b'{"format": "unmix-recording", "version": 2, "unit": []}', mtime=0),
            "is a recording of version 2; 1 is read",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(SystemExit, match=said):
        compare_command.main([str(file)])


def test_a_missing_file_and_an_unknown_map_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="No such file"):
        compare_command.main([str(tmp_path / "none")])
    told = {"format": "unmix-recording", "version": 1, "unit": UNIT, "maps": {"9x": {}}}
    (tmp_path / "file").write_bytes(gzip.compress(json.dumps(told).encode()))
    with pytest.raises(SystemExit, match="Skirmish has no map 9x"):
        compare_command.main([str(tmp_path / "file")])
