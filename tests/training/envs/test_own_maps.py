"""A map from a file anywhere: loaded, drawn, played, named; and what is said when it is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.envs.battlefield import see
from training.config import TrainConfig
from training.envs import check_task, make_env, map_label
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.scenario import MAP_SIZE, ScenarioError, load_scenario
from training.evaluate import Command, run
from training.run_folder import new_run_folder

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "bridge.json"


def write(path: Path, **changes: Any) -> str:
    path.write_text(json.dumps({**json.loads(EXAMPLE.read_text()), **changes}))
    return str(path)


def test_the_example_is_read_as_it_says() -> None:
    scenario = load_scenario(str(EXAMPLE))
    assert (scenario.name, scenario.episode_limit) == ("bridge", 150)
    assert [unit.name for unit in scenario.ally_units] == ["stalker"] * 3 + ["zealot"] * 2
    assert [unit.name for unit in scenario.enemy_units] == ["zergling"] * 16 + ["baneling"] * 4
    pathable = scenario.terrain.pathable
    # Two banks of 10 x 16 and a bridge of 8 x 4 between them.
    assert pathable.sum() == 2 * 160 + 32
    assert np.flatnonzero(pathable[12:20].any(0)).tolist() == [14, 15, 16, 17]
    assert (scenario.terrain.level == pathable).all()


def test_the_example_is_played_over_its_bridge() -> None:
    """Banelings on the far bank reach agents that have hidden in a corner of theirs."""
    env = SkirmishEnv(str(EXAMPLE), 8)
    assert (env.info.map_name, env.info.n_agents, env.info.n_enemies) == ("bridge", 5, 20)
    pathable = env.scenario.terrain.pathable
    shown = env.reset()
    for _ in range(30):
        shown = env.step(shown.avail_actions.int().argmax(2)).observation  # no-op, stop
        x, y = see(env, "x"), see(env, "y")
        assert pathable[x.astype(int), y.astype(int)].all()
    assert see(env, "x")[:, 5:].min(1).max() < 10
    assert (see(env, "shield")[:, :5] < 50).any()


def test_evaluation_takes_a_maps_path() -> None:
    result = run(Command("closest", str(EXAMPLE), episodes=16))
    assert result.episodes == 16
    assert result.return_mean > 0


def test_a_file_in_another_folder_is_called_by_its_bare_name(tmp_path: Path) -> None:
    path = write(tmp_path / "ford.json", name="ford")
    assert load_scenario(path).name == "ford"
    assert make_env("skirmish", path, 1).info.map_name == "ford"
    raw = json.loads(Path(path).read_text())
    del raw["name"]  # may be left out
    Path(path).write_text(json.dumps(raw))
    assert load_scenario(path).name == "ford"
    assert map_label(path) == "ford"
    assert map_label("3s5z_vs_3s6z") == "3s5z_vs_3s6z"


def test_a_run_is_called_by_the_maps_bare_name(tmp_path: Path) -> None:
    config = TrainConfig()
    config = replace(config, task=replace(config.task, map_name=str(EXAMPLE)))
    assert new_run_folder(tmp_path, config, None).path == tmp_path / "bridge-qmix-1"


def test_a_terrain_by_name_is_the_same_as_one_drawn(tmp_path: Path) -> None:
    drawn = json.loads((ROOT / "training/envs/skirmish/data/terrain.json").read_text())
    rows = drawn["terrains"]["plateau"]
    at = {"allies": [{"unit": "stalker", "count": 1, "at": [16, 16]}], "ally_types": ["stalker"]}
    at |= {"enemies": [{"unit": "zealot", "count": 1, "at": [16, 9]}], "enemy_types": ["zealot"]}
    own = load_scenario(
        write(tmp_path / "a.json", name="a", unit_type_bits=0, terrain={"rows": rows}, **at)
    )
    named = load_scenario(
        write(tmp_path / "b.json", name="b", unit_type_bits=0, terrain="plateau", **at)
    )
    assert np.array_equal(own.terrain.pathable, named.terrain.pathable)
    assert np.array_equal(own.terrain.level, named.terrain.level)
    assert own.terrain.pathable.shape == (MAP_SIZE, MAP_SIZE)
    assert own.terrain.level[5, 15] == 1.375  # the ramp's middle, x before y


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "bridges"}, r"bridge\.json: name is 'bridges', which must be the file's"),
        ({"terrain": {"rows": ["." * 32] * 31}}, r"bridge\.json: terrain must be 32 rows of 32"),
        ({"terrain": {"rows": ["?" * 32] * 32}}, r"bridge\.json: terrain must be 32 rows of 32"),
        ({"terrain": {"rows": [1] * 32}}, r"bridge\.json: terrain must be 32 rows of 32"),
        ({"terrain": {}}, r"bridge\.json: terrain: rows is missing"),
        ({"terrain": {"rows": [], "of": 1}}, r"bridge\.json: terrain: unknown keys \['of'\]"),
        ({"terrain": 7}, r"bridge\.json: terrain: expected an object, not 7"),
        ({"terrain": "moon"}, r"bridge\.json: unknown terrain 'moon'; have .*band"),
        ({"enemy_order": {"pursue": "me"}}, r"bridge\.json: enemy_order is attack_move, or"),
        ({"unit_type_bits": 0}, r"bridge\.json: allies of 2 types need unit_type_bits"),
    ],
)
def test_a_broken_map_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "bridge.json", **changes)
    with pytest.raises(ScenarioError, match=message):
        check_task("skirmish", path, {})


def test_a_map_without_room_is_refused_before_anything_starts(tmp_path: Path) -> None:
    crowd = [{"unit": kind, "count": 50, "at": [2.5, 8.5]} for kind in ("stalker", "zealot")]
    path = write(tmp_path / "bridge.json", allies=crowd)
    with pytest.raises(ScenarioError, match="no room for zealot number"):
        check_task("skirmish", path, {})


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere/bridge\.json: no map file is there"):
        load_scenario("nowhere/bridge.json")
    (tmp_path / "torn.json").write_text('{"name": ')
    with pytest.raises(ScenarioError, match=r"torn\.json: Expecting value"):
        load_scenario(str(tmp_path / "torn.json"))
