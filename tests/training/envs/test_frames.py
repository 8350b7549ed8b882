"""Frames say what the world held, step by step, and survive as lines."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.showcase import showcase
from training.algorithms.heuristic import ClosestEnemy
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.frames import (
    Battle,
    FramesError,
    Recorder,
    describe,
    from_lines,
    read_battle,
    to_lines,
)
from training.envs.skirmish.scenario import load_scenario
from training.envs.skirmish.world import World

ONE = torch.ones(1, dtype=torch.bool)


def watched(map_name: str, battle_id: int, **env_args: bool) -> Iterator[tuple[Battle, World]]:
    """A battle of the closest-enemy player, as far as it goes, and the world at its last frame."""
    env = SkirmishEnv(map_name, 1, 5, "cpu", **env_args)
    policy = ClosestEnemy(env)
    header = describe(env, battle_id, "closest", "")
    recorder = Recorder(env, header, env.options.heuristic_ai)
    ids = torch.tensor([battle_id])
    policy.begin(ONE, ids)
    observation, transition, over = env.reset(ONE, ids), None, False
    while not over:
        actions = policy.act(observation)
        recorder.take(observation, transition, actions, None)
        yield Battle(header, recorder.frames), env.world
        transition = env.step(actions)
        observation = transition.observation
        over = bool(transition.terminated[0] | transition.truncated[0])
    recorder.take(observation, transition, None, None)
    yield Battle(header, recorder.frames), env.world


def test_each_frame_is_the_world_at_its_step() -> None:
    n_steps = 0
    for n_steps, (battle, world) in enumerate(watched("2s3z", 3)):
        frame = battle.frames[-1]
        assert frame.t == n_steps
        for name, values in (("x", frame.x), ("y", frame.y), ("health", frame.hp)):
            grain = 4096 if name in "xy" else 8  # what positions and health are multiples of
            exact = [round(value * grain) / grain for value in values]
            assert exact == getattr(world, name)[:, 0].tolist(), (name, n_steps)
        assert frame.sh == pytest.approx(world.shield[:, 0].tolist(), abs=1e-4)
        for named, target in zip(frame.tg, world.target[:, 0].tolist(), strict=True):
            assert named == target or (target == -1 and frame.hp[named] == 0)
    assert n_steps > 10


def test_a_battle_from_its_header_to_its_end() -> None:
    *_, (battle, _) = watched("2s3z", 3)
    header, first, last = battle.header, battle.frames[0], battle.frames[-1]
    names = ["stalker"] * 2 + ["zealot"] * 3
    assert [(u.type, u.side) for u in header.units] == [(n, "ally") for n in names] + [
        (n, "enemy") for n in names
    ]
    assert header.units[0].radius == 0.625
    assert (header.units[0].health_max, header.units[0].shield_max) == (80, 80)
    assert (header.map, header.seed, header.battle, header.n_agents) == ("2s3z", 5, 3, 5)
    assert (header.sight, header.shoot) == (9, 6)
    assert header.actions[:6] == ["no_op", "stop", "north", "south", "east", "west"]
    terrain = load_scenario("2s3z").terrain
    assert header.pathable[7] == "." * 32
    assert header.pathable[6] == "#" * 32
    assert header.level[20][4] == terrain.level[4, 20] == 1
    assert (first.r, first.sum, first.fire) == (0, 0, [0] * 10)
    assert last.end in ("won", "lost")
    assert all(frame.end == "" for frame in battle.frames[:-1])
    assert last.a is None
    assert last.sum == pytest.approx(sum(frame.r for frame in battle.frames), abs=1e-2)
    loser = slice(0, 5) if last.end == "lost" else slice(5, 10)
    assert not any(last.hp[loser])


def test_who_shoots_at_whom() -> None:
    """Marines shoot one target at a time and hit a game loop later: who is shot at loses health in
    that step, or in the next if the shot came at its end; and nobody loses any otherwise."""
    *_, (battle, _) = watched("3m", 0)
    frames, shots = battle.frames, 0
    shot_at, hurt, fell = [set[int]()], [set[int]()], [False]
    for before, frame in itertools.pairwise(frames):
        firing = [i for i in range(6) if frame.fire[i]]
        assert all(frame.hp[i] > 0 and (frame.tg[i] < 3) != (i < 3) for i in firing)
        shots += len(firing)
        shot_at.append({frame.tg[i] for i in firing})
        hurt.append({i for i in range(6) if frame.hp[i] < before.hp[i]})
        fell.append(any(frame.hp[i] == 0 < before.hp[i] for i in range(6)))
    checked = 0
    for t in range(1, len(frames) - 1):
        if not any(fell[t - 1 : t + 2]):  # else shooters turn to another target within the step
            assert shot_at[t] <= hurt[t] | hurt[t + 1], t
            assert hurt[t] <= shot_at[t] | shot_at[t - 1], t
            checked += bool(shot_at[t])
    assert shots > 15
    assert checked > 5


def test_who_fells_a_unit_is_seen_to_shoot_at_it() -> None:
    """An ally's target is known from its action even where the world has forgotten the dead."""
    *_, (battle, _) = watched("3m", 0)
    last_blows = 0
    for before, frame in itertools.pairwise(battle.frames):
        for i in (3, 4, 5):
            if frame.hp[i] == 0 < before.hp[i]:
                shooters = [a for a in range(3) if frame.fire[a] and frame.tg[a] == i]
                assert before.a is not None
                assert all(before.a[a] == 6 + i - 3 for a in shooters)
                last_blows += len(shooters)
    assert last_blows > 0


def test_choices_are_those_made_on_seeing_the_frame() -> None:
    for battle, _ in watched("3m", 1):
        frame = battle.frames[-1]
        for agent in range(3):
            assert (frame.av[agent][0] == "1") == (frame.hp[agent] == 0)
            if frame.a is not None:
                assert frame.av[agent][frame.a[agent]] == "1"


def test_a_player_inside_the_environment_has_no_actions_to_show() -> None:
    *_, (battle, _) = watched("3m", 0, heuristic_ai=True)
    assert all(frame.a is None for frame in battle.frames)
    assert any(any(frame.fire[:3]) for frame in battle.frames)


def test_lines_give_back_the_battle() -> None:
    for battle in (showcase(), list(watched("3m", 0))[-1][0]):
        text = to_lines(battle)
        again = from_lines(text, "here")
        assert again == Battle(battle.header, list(battle.frames))
        rows = [json.loads(line) for line in text.splitlines()]
        assert len(rows) == len(battle.frames) + 1
        assert (rows[0]["format"], rows[0]["version"]) == ("unmix-battle", 1)
        assert rows[1]["hp"] == battle.frames[0].hp


def test_what_is_no_battle_is_refused(tmp_path: Path) -> None:
    good = to_lines(showcase())
    cut = "".join(good.splitlines(keepends=True)[:-1])
    other = good.replace('"version":1', '"version":9', 1)
    for text, words in (
        ("", "no frames of a battle"),
        ("[1]\n", "line 1: expected an object"),
        ("{}\n", "no frames of a battle"),
        ("nonsense", "line 1: Expecting value"),
        (other, "frames of version 9; this is 1"),
        (cut, "the battle's end is missing"),
        (good.replace('"seed"', '"seeds"', 1), "seed"),
    ):
        with pytest.raises(FramesError, match=words):
            from_lines(text, "here")
    with pytest.raises(FramesError, match="No such file"):
        read_battle(tmp_path / "none.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(FramesError, match="no frames of a battle"):
        read_battle(tmp_path / "bytes.jsonl")


def test_keys_of_the_lines_are_the_documented_ones() -> None:
    from training.envs.skirmish import frames

    words = set(frames.FORMAT.replace(",", " ").split())
    for record in (frames.Header, frames.Frame, frames.Unit):
        for field in dataclasses.fields(record):
            assert field.name in words, field.name
