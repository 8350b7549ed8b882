"""Maps as data: their sizes beside SMAC's own, and what a broken file says of itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.envs.battlefield import ATTACK, NEVER, Placed, battle, command, of
from tests.training.envs.conformance import play
from training.envs.skirmish import scenario as scenarios
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.options import OptionError, SkirmishOptions
from training.envs.skirmish.reward import max_reward
from training.envs.skirmish.scenario import ScenarioError, load_scenario, map_names, unit_types

#   map: n_agents, n_enemies, episode_limit, obs_dim, state_dim, n_actions, max_reward
SIZES = {
    "3m": (3, 3, 60, 30, 48, 9, 365),
    "5m": (5, 5, 70, 50, 90, 11, 475),
    "8m": (8, 8, 120, 80, 168, 14, 640),
    "25m": (25, 25, 150, 250, 950, 31, 1575),
    "5m_vs_6m": (5, 6, 70, 55, 98, 12, 530),
    "8m_vs_9m": (8, 9, 120, 85, 179, 15, 695),
    "10m_vs_11m": (10, 11, 150, 105, 243, 17, 805),
    "27m_vs_30m": (27, 30, 180, 285, 1170, 36, 1850),
    "2s3z": (5, 5, 120, 80, 120, 11, 1020),
    "3s5z": (8, 8, 150, 128, 216, 14, 1510),
    "3s5z_vs_3s6z": (8, 9, 170, 136, 230, 15, 1670),
    "3s_vs_3z": (3, 3, 150, 36, 54, 9, 680),
    "3s_vs_4z": (3, 4, 200, 42, 61, 10, 840),
    "3s_vs_5z": (3, 5, 250, 48, 68, 11, 1000),
    "2m_vs_1z": (2, 1, 150, 16, 26, 7, 360),
    "MMM": (10, 10, 150, 160, 290, 16, 1015),
    "MMM2": (10, 12, 180, 176, 322, 18, 1205),
    "1c3s5z": (9, 9, 180, 162, 270, 15, 1870),
    "corridor": (6, 24, 400, 156, 282, 30, 1280),
    "6h_vs_8z": (6, 8, 150, 78, 140, 14, 1480),
    "2s_vs_1sc": (2, 1, 300, 17, 27, 7, 510),
    "so_many_baneling": (7, 32, 100, 202, 397, 38, 1480),
    "bane_vs_bane": (24, 24, 200, 336, 984, 30, 1260),
    "2c_vs_64zg": (2, 64, 400, 332, 342, 70, 3080),
}
AGENTS = {
    "3m": ("marine",) * 3,
    "27m_vs_30m": ("marine",) * 27,
    "2m_vs_1z": ("marine",) * 2,
    "3s_vs_5z": ("stalker",) * 3,
    "2s3z": ("stalker",) * 2 + ("zealot",) * 3,
    "3s5z": ("stalker",) * 3 + ("zealot",) * 5,
    "3s5z_vs_3s6z": ("stalker",) * 3 + ("zealot",) * 5,
    "MMM": ("marauder",) * 2 + ("marine",) * 7 + ("medivac",),
    "MMM2": ("marauder",) * 2 + ("marine",) * 7 + ("medivac",),
    "1c3s5z": ("colossus",) + ("stalker",) * 3 + ("zealot",) * 5,
    "bane_vs_bane": ("baneling",) * 4 + ("zergling",) * 20,
}


def test_every_map_is_in_the_table() -> None:
    assert set(SIZES) == set(map_names())


@pytest.mark.parametrize("name", SIZES)
def test_sizes_equal_those_of_smac(name: str) -> None:
    env = SkirmishEnv(name, n_envs=1)
    info = env.info
    most = max_reward(load_scenario(name), SkirmishOptions())
    sizes = (info.n_agents, info.n_enemies, info.episode_limit, info.obs_dim, info.state_dim)
    assert (*sizes, info.n_actions, most) == SIZES[name]
    shown = env.reset()
    assert shown.obs.shape == (1, info.n_agents, info.obs_dim)
    assert shown.state.shape == (1, info.state_dim)
    assert shown.avail_actions.shape == (1, info.n_agents, info.n_actions)
    assert info.unit_types == AGENTS.get(name, info.unit_types)
    assert (info.name, info.map_name) == ("skirmish", name)


def test_enemies_stand_in_the_order_in_which_the_map_creates_them() -> None:
    enemies = [unit.name for unit in load_scenario("3s5z_vs_3s6z").enemy_units]
    assert enemies == ["stalker"] * 3 + ["zealot"] * 6


@pytest.mark.parametrize("name", ["2s3z", "3s5z", "3s5z_vs_3s6z"])
def test_the_enemys_type_bits_are_swapped(name: str) -> None:
    env = SkirmishEnv(name, 1)
    state = env.reset().state[0]
    n, k = env.info.n_agents, env.info.n_enemies
    allies = state[: n * 7].reshape(n, 7)[:, -2:].tolist()
    enemies = state[n * 7 :][: k * 6].reshape(k, 6)[:, -2:].tolist()
    assert allies == [[1, 0] if kind == "stalker" else [0, 1] for kind in env.info.unit_types]
    theirs = [unit.name for unit in load_scenario(name).enemy_units]
    assert enemies == [[0, 1] if kind == "stalker" else [1, 0] for kind in theirs]


def test_the_layout_names_what_an_agent_can_share() -> None:
    hashes = {name: SkirmishEnv(name, 1).info.layout_sha256 for name in ("3m", "5m", "3s_vs_3z")}
    assert len(set(hashes.values())) == 3
    assert SkirmishEnv("3m", 4, seed=9).info.layout_sha256 == hashes["3m"]
    assert SkirmishEnv("3m", 1, obs_last_action=True).info.layout_sha256 != hashes["3m"]


def test_an_unknown_map_is_answered_with_the_nearest() -> None:
    with pytest.raises(ScenarioError, match=r"unknown map '3s5x'; did you mean .*3s5z"):
        load_scenario("3s5x")
    with pytest.raises(ScenarioError, match=r"unknown map 'atlantis'; there are .*2s3z"):
        SkirmishEnv("atlantis", 1)


Edit = Callable[[str, Callable[[Any], None]], None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Change one of a copy of the data files, which is what the loader then reads."""
    data = tmp_path / "data"
    shutil.copytree(scenarios.DATA, data)
    monkeypatch.setattr(scenarios, "DATA", data)
    caches = (scenarios.unit_types, scenarios._terrains)

    def apply(name: str, change: Callable[[Any], None]) -> None:
        raw = json.loads((data / name).read_text())
        change(raw)
        (data / name).write_text(json.dumps(raw))
        for cached in caches:
            cached.cache_clear()

    yield apply
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("episode_limit"), r"3m\.json: episode_limit is missing"),
        (lambda m: m.update(episode_limit=-60), r"3m\.json: episode_limit must be positive"),
        (lambda m: m.update(episode_limit="60"), r"3m\.json: episode_limit must be a int"),
        (lambda m: m.update(episode_limit=True), r"3m\.json: episode_limit must be a int"),
        (lambda m: m.update(limit=60), r"3m\.json: unknown keys \['limit'\]"),
        (lambda m: m.update(terrain="moon"), r"3m\.json: unknown terrain 'moon'; have .*band"),
        (lambda m: m.update(allies=[]), r"3m\.json: allies must not be empty"),
        (
            lambda m: m["allies"][0].update(unit="firebat"),
            r"3m\.json: allies: unknown unit 'firebat'; have .*marine",
        ),
        (lambda m: m["enemies"][0].update(count=0), r"3m\.json: enemies: count of marine .*not 0"),
        (lambda m: m["allies"][0].pop("at"), r"3m\.json: allies: at is missing"),
        (lambda m: m["allies"][0].update(facing=1), r"3m\.json: allies: unknown keys \['facing'\]"),
        (lambda m: m["allies"][0].update(at=[9]), r"3m\.json: allies: a point is two numbers"),
        (
            lambda m: m["allies"][0].update(at=[9, 3]),
            r"3m\.json: allies spawn at \(9\.0, 3\.0\), which is not pathable",
        ),
        (
            lambda m: m["enemies"][0].update(at=[40, 16]),
            r"3m\.json: enemies spawn at \(40\.0, 16\.0\), which is not pathable",
        ),
        (
            lambda m: m["enemies"][0].update(unit="zealot"),
            r"3m\.json: the unit types of enemies are \['zealot'\]",
        ),
        (
            lambda m: m["enemy_order"].update(attack_move=[[1, 1]] * 3),
            r"3m\.json: enemy_order\.attack_move takes 1 or 2 points",
        ),
    ],
)
def test_a_broken_map_names_its_file_and_field(
    edit: Edit, change: Callable[[Any], None], message: str
) -> None:
    edit("maps/3m.json", change)
    with pytest.raises(ScenarioError, match=message):
        load_scenario("3m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u: u["marine"].update(health=-45), r"units\.json: marine: health .*not -45"),
        (lambda u: u["marine"].update(health=0), r"units\.json: marine: health .*not 0"),
        (lambda u: u["marine"].update(armor=-1), r"units\.json: marine: armor .*not -1"),
        (lambda u: u["marine"].update(speed="fast"), r"units\.json: marine: speed .*'fast'"),
        (lambda u: u["marine"].pop("radius"), r"units\.json: marine: radius"),
        (lambda u: u["marine"].update(mana=1), r"units\.json: marine: unknown keys \['mana'\]"),
        (
            lambda u: u["marine"]["weapon"].update(period=float("nan")),
            r"units\.json: marine: weapon: period",
        ),
        (
            lambda u: u["marine"]["weapon"].pop("damage"),
            r"units\.json: marine: weapon: damage",
        ),
        (
            lambda u: u["marine"]["weapon"]["delivery"].update(kind="beam"),
            r"units\.json: marine: weapon: delivery: unknown kind 'beam'",
        ),
        (
            lambda u: u["stalker"]["weapon"]["delivery"].pop("speed"),
            r"units\.json: stalker: weapon: delivery: speed",
        ),
    ],
)
def test_a_broken_unit_names_its_file_and_field(
    edit: Edit, change: Callable[[Any], None], message: str
) -> None:
    edit("units.json", lambda raw: change(raw["units"]))
    with pytest.raises(ScenarioError, match=message):
        load_scenario("3m")


def test_a_terrain_of_another_size_is_refused(edit: Edit) -> None:
    edit("terrain.json", lambda raw: raw["terrains"]["band"].pop())
    with pytest.raises(ScenarioError, match=r"terrain\.json: band must be 32 rows"):
        load_scenario("3m")


VOID: dict[
    str, dict[str, Any]
] = {  # what Void's multiplayer data says otherwise; times in game loops
    "stalker": {"weapon": {"damage": 13, "bonus": {"armored": 5}, "period": 29.92}},
    "colossus": {"weapon": {"damage": 10, "bonus": {"light": 5}, "period": 24, "range": 7}},
    "hydralisk": {"health": 90, "weapon": {"period": 13.2}},
    "medivac": {"speed": 640 / 4096, "acceleration": 36 / 4096},
    "spine_crawler": {"weapon": {"period": 29.6}},
}


def test_void_multi_changes_these_numbers_and_nothing_else() -> None:
    liberty, void = unit_types(), unit_types("void_multi")
    assert liberty == unit_types("liberty")
    assert list(void) == list(liberty)
    for name, unit in liberty.items():
        changes = dict(VOID.get(name, {}))
        arms = changes.pop("weapon", {})
        for key, value in arms.items():
            now, before = getattr(void[name].weapon, key), getattr(unit.weapon, key)
            assert now == (value if key == "bonus" else pytest.approx(value))
            assert now != before
        for key, value in changes.items():
            assert getattr(void[name], key) == value != getattr(unit, key)
        # With those taken back it is the same unit.
        weapon = void[name].weapon
        if weapon is not None and unit.weapon is not None:
            weapon = replace(weapon, **{key: getattr(unit.weapon, key) for key in arms})
        old = {key: getattr(unit, key) for key in changes}
        assert replace(void[name], weapon=weapon, **old) == unit


def test_battles_by_void_multi() -> None:
    env = SkirmishEnv("6h_vs_8z", 1, unit_data="void_multi")
    assert env.world.health[:6].tolist() == [[90]] * 6
    shown = env.reset()
    assert shown.obs[0, :, -1].tolist() == [1] * 6  # whole, by what it has
    assert (shown.state[0, :24].reshape(6, 4)[:, 0] == 1).all()
    sizes = env.info.obs_dim, env.info.state_dim, env.info.n_actions
    assert sizes == SIZES["6h_vs_8z"][3:6]
    most = max_reward(env.scenario, env.options)
    assert most == SIZES["6h_vs_8z"][6]
    assert SkirmishEnv("6h_vs_8z", 1).world.health[0].item() == 80
    # A stalker's shot at another: 13 and 5 to the armored.
    enemy = Placed(12, 16, cooldown=NEVER)
    for data, lost in (("liberty", 14), ("void_multi", 18)):
        env = battle({"stalker": [Placed(9, 16)]}, {"stalker": [enemy]}, unit_data=data)
        command(env, ATTACK)
        assert of(env, "shield", 1) == 80 - lost


def test_marines_and_zealots_are_the_same_by_either_data() -> None:
    plays = []
    for data in ("liberty", "void_multi"):
        env = SkirmishEnv("3m", 2, seed=1, unit_data=data)
        plays.append([after.observation.state for after in play(env, torch.arange(2), 20)])
    assert all(torch.equal(a, b) for a, b in zip(*plays, strict=True))


def test_unknown_unit_data_is_refused() -> None:
    with pytest.raises(OptionError, match="unit_data must be one of liberty, void_multi, not 'x'"):
        SkirmishEnv("3m", 1, unit_data="x")
