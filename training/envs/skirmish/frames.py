"""A battle as frames: what the environment's world held at each step, as plain records and lines.

A battle of L steps has L + 1 frames, the first before any action. N units: agents by id, then
enemies by index. `FORMAT` describes the JSON lines that keep it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.features import N_NON_ATTACK, SHOOT_RANGE, SIGHT_RANGE
from training.envs.skirmish.scenario import MAP_SIZE, UnitType
from training.envs.skirmish.world import NOBODY, World
from training.types import Observation, Transition

FORMAT_NAME, FORMAT_VERSION = "unmix-battle", 1
FORMAT = """\
One JSON object per line. The first is the header.

  format, version         "unmix-battle", 1
  map, seed, battle       the same three begin the same battle, whoever plays it
  policy, q_note          who plays; why it shows no Q values, "" if it does
  n_agents, step_limit    the first n_agents units are the agents, by id; the rest are enemies
  size, sight, shoot      side of the map; sight range and shoot range of all units, by centres
  actions                 the actions' names, by number
  units                   of each: type, side (ally, enemy), race, radius, health_max, shield_max,
                          flies, heals (true, false), burst (radius of its explosion, 0 without)
  pathable, level         rows of the terrain by 1 x 1 cell, y = 0 first: "." for pathable and "#"
                          for not; cliff levels, 0 for the void, 1, 2, fractions for ramps

Then comes one line for each step, t = 0 before the first action; lists go by unit or by agent.

  t, r, sum               step; reward of the step that led here; return so far
  end                     "" while it goes on; won, lost, draw (nobody is left) or time
  x, y, face              positions, y up; where units look, degrees from east, counterclockwise
  hp, sh, en              health (0 is dead), shield, energy
  tg, fire                the unit each aims at or heals, -1 for nobody (one that has just fallen is
                          still named); 1 if it struck, shot or healed in the step that led here
  a, av, q                of each agent: the action it chooses on seeing this frame; which actions
                          are available, "0110..." by number; its Q values. null where there are
                          none: a and q after the end, a of a player inside the environment"""

Side = Literal["ally", "enemy"]
Outcome = Literal["", "won", "lost", "draw", "time"]


class FramesError(ValueError):
    """A file does not hold the frames of a battle."""


@dataclass(frozen=True)
class Unit:
    """What of a unit never changes."""

    type: str
    side: Side
    race: str
    radius: float
    health_max: float
    shield_max: float
    flies: bool
    heals: bool
    burst: float


@dataclass(frozen=True)
class Frame:
    """The battle at one step; `FORMAT` says what the fields are."""

    t: int
    r: float
    sum: float
    end: Outcome
    x: list[float]
    y: list[float]
    face: list[int]
    hp: list[float]
    sh: list[float]
    en: list[float]
    tg: list[int]
    fire: list[int]
    a: list[int] | None
    av: list[str]
    q: list[list[float]] | None


@dataclass(frozen=True)
class Header:
    """What of a battle never changes; `FORMAT` says what the fields are."""

    map: str
    seed: int
    battle: int
    policy: str
    q_note: str
    n_agents: int
    step_limit: int
    size: int
    sight: float
    shoot: float
    actions: list[str]
    units: list[Unit]
    pathable: list[str]
    level: list[list[float]]


@dataclass(frozen=True)
class Battle:
    """A battle from its first frame to its last."""

    header: Header
    frames: Sequence[Frame]

    @property
    def outcome(self) -> Outcome:
        return self.frames[-1].end


def describe(env: SkirmishEnv, battle_id: int, policy: str, q_note: str) -> Header:
    """The header of a battle in this environment."""
    scenario, info = env.scenario, env.info
    types = {unit.name: unit for unit in scenario.ally_units}
    allies = [_unit(types[name], "ally") for name in info.unit_types]
    return Header(
        map=info.map_name,
        seed=env.seed,
        battle=battle_id,
        policy=policy,
        q_note=q_note,
        n_agents=info.n_agents,
        step_limit=info.episode_limit,
        size=MAP_SIZE,
        sight=SIGHT_RANGE,
        shoot=SHOOT_RANGE,
        actions=list(env.features.layout.actions),
        units=allies + [_unit(unit, "enemy") for unit in scenario.enemy_units],
        pathable=["".join(".#"[not cell] for cell in row) for row in scenario.terrain.pathable.T],
        level=scenario.terrain.level.T.tolist(),
    )


def _unit(kind: UnitType, side: Side) -> Unit:
    return Unit(
        type=kind.name,
        side=side,
        race=kind.race,
        radius=kind.radius,
        health_max=kind.health,
        shield_max=kind.shield,
        flies="ground" not in kind.planes,
        heals=kind.heal is not None,
        burst=kind.weapon.burst_radius if kind.weapon is not None else 0.0,
    )


class Recorder:
    """Takes the frames of one battle, that of an environment of one slot.

    Args:
        plays_itself: the environment ignores its caller's actions (SMAC's heuristic): they say
            nothing, and are not kept.
    """

    def __init__(self, env: SkirmishEnv, header: Header, plays_itself: bool) -> None:
        self.frames: list[Frame] = []
        self._env, self._header, self._plays_itself = env, header, plays_itself
        self._before: World | None = None

    def take(
        self,
        observation: Observation,
        transition: Transition | None,
        actions: Tensor | None,
        q_values: Tensor | None,
    ) -> Frame:
        """The frame of the world as it is now.

        Args:
            transition: what led here; None at the beginning.
            actions: [1, A] chosen now; None after the end.
            q_values: [1, A, U] behind them, where the policy shows them.
        """
        world, before = self._env.world, self._before or self._env.world
        last = self.frames[-1] if self.frames else None
        reward = float(transition.reward[0]) if transition is not None else 0.0
        over = actions is None
        fire = self._fired(world, before)
        frame = Frame(
            t=len(self.frames),
            r=round(reward, 4),
            sum=round(reward + (last.sum if last is not None else 0.0), 4),
            end=self._outcome(transition),
            x=_numbers(world.x),
            y=_numbers(world.y),
            face=_degrees(world),
            hp=_numbers(world.health),
            sh=_numbers(world.shield),
            en=_numbers(world.energy),
            tg=self._targets(world, before, fire, last),
            fire=fire,
            a=actions[0].tolist() if actions is not None and not self._plays_itself else None,
            av=["".join(map(str, row)) for row in observation.avail_actions[0].int().tolist()],
            q=[_numbers(row) for row in q_values[0]] if q_values is not None and not over else None,
        )
        self._before = world
        self.frames.append(frame)
        return frame

    def _fired(self, world: World, before: World) -> list[int]:
        """Who began an attack in the last step, or healed: a new cooldown, or energy spent."""
        left = (before.cooldown - self._env.options.step_mul).clamp_min(0)
        acted = (world.cooldown > left) | (world.energy < before.energy)
        return [int(f) for f in (acted & (world.health > 0))[:, 0].tolist()]

    def _targets(
        self, world: World, before: World, fire: list[int], last: Frame | None
    ) -> list[int]:
        """Whom everybody aims at. The world forgets a target that falls; who shot at it did not."""
        fell = ((before.health > 0) & (world.health <= 0))[:, 0].tolist()
        targets: list[int] = world.target[:, 0].tolist()
        for i, target in enumerate(targets):
            if target == NOBODY and fire[i] and last is not None:
                meant = self._meant(i, last)
                targets[i] = meant if meant != NOBODY and fell[meant] else NOBODY
        return targets

    def _meant(self, i: int, last: Frame) -> int:
        """The target that unit i was given, or had, in the frame before."""
        if last.a is None or i >= self._header.n_agents:
            return last.tg[i]
        target = last.a[i] - N_NON_ATTACK
        if target < 0:
            return NOBODY
        return target if self._header.units[i].heals else target + self._header.n_agents

    def _outcome(self, transition: Transition | None) -> Outcome:
        if transition is None or not bool(transition.terminated[0] | transition.truncated[0]):
            return ""
        if bool(transition.truncated[0]):
            return "time"
        if bool(transition.battle_won[0]):
            return "won"
        n_enemies = len(self._header.units) - self._header.n_agents
        return "draw" if int(transition.dead_enemies[0]) == n_enemies else "lost"


def replay(env: SkirmishEnv, battle_id: int, actions: Tensor, policy: str) -> Battle:
    """The frames of a battle whose actions are known, played again.

    Args:
        env: of one slot, with the seed and the options it was played with.
        actions: [L, A] int64.
        policy: who had chosen them.
    """
    header = describe(env, battle_id, policy, "only the actions were kept: no Q values to show")
    recorder = Recorder(env, header, plays_itself=env.options.heuristic_ai)
    observation, transition = env.reset(battle_ids=torch.tensor([battle_id])), None
    for step in actions:
        recorder.take(observation, transition, step[None], None)
        transition = env.step(step[None])
        observation = transition.observation
    recorder.take(observation, transition, None, None)
    return Battle(header, recorder.frames)


def _numbers(values: Tensor) -> list[float]:
    """Four decimals: they tell the positions' grain of 1/4096 apart, and damage is coarser."""
    return [round(value, 4) for value in values.flatten().tolist()]


def _degrees(world: World) -> list[int]:
    angle = torch.rad2deg(torch.atan2(world.face_y, world.face_x))[:, 0]
    return [round(value) % 360 for value in angle.tolist()]


# ---------------------------------------------------------------------------- JSON lines


def to_lines(battle: Battle) -> str:
    """The whole battle as JSON lines."""
    header = {"format": FORMAT_NAME, "version": FORMAT_VERSION, **dataclasses.asdict(battle.header)}
    rows = [header, *(dataclasses.asdict(frame) for frame in battle.frames)]
    return "".join(json.dumps(r, separators=(",", ":"), allow_nan=False) + "\n" for r in rows)


def from_lines(text: str, source: str) -> Battle:
    """The battle that `to_lines` wrote; `source` names it in errors.

    Raises:
        FramesError: it is something else, of another version, or cut short.
    """
    rows = [_object(line, f"{source}: line {i}") for i, line in enumerate(text.splitlines(), 1)]
    if not rows or rows[0].pop("format", None) != FORMAT_NAME:
        raise FramesError(f"{source}: no frames of a battle")
    version = rows[0].pop("version", None)
    if version != FORMAT_VERSION:
        raise FramesError(f"{source}: frames of version {version}; this is {FORMAT_VERSION}")
    try:
        units = [Unit(**unit) for unit in rows[0].pop("units", [])]
        battle = Battle(Header(units=units, **rows[0]), [Frame(**row) for row in rows[1:]])
    except TypeError as error:
        raise FramesError(f"{source}: {str(error).split('.__init__() ')[-1]}") from None
    if not battle.frames or not battle.outcome:
        raise FramesError(f"{source}: the battle's end is missing")
    return battle


def read_battle(path: Path) -> Battle:
    """Raises: FramesError: the file cannot be read, or holds something else."""
    try:
        return from_lines(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise FramesError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FramesError(f"{path}: no frames of a battle") from None


def _object(line: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise FramesError(f"{source}: {error}") from None
    if not isinstance(value, dict):
        raise FramesError(f"{source}: expected an object")
    return cast(dict[str, Any], value)
