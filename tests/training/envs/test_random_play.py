"""Random legal play on every map: whatever agents do, units obey the ground and their own bounds.

200 battles a map side by side, until all are decided or for 100 steps (half a minute of play, in
which most random teams have lost); 80 for 60 steps on the four maps of 48 units and more. Two
battles a step, in turn, are held against the slow reference.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.training.envs import reference
from tests.training.envs.battlefield import GRAIN, random_actions, see, units
from tests.training.envs.conformance import assert_same, play, slot_of
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.formation import CONTACT
from training.envs.skirmish.scenario import MAP_SIZE, map_names
from training.envs.skirmish.world import World
from training.types import Transition

BATTLES, STEPS = 200, 100
COMPARED = 2  # battles a step
CROWDED = {"25m", "27m_vs_30m", "2c_vs_64zg", "bane_vs_bane"}

# Units that overlap are pushed apart once a loop, by the whole overlap of each pair. For two that
# is all; in a crowd, who is pushed out of one circle lands in another's, and along a wall there is
# nowhere to go. So what can be asked for is how many overlap how far. By more than half the smaller
# one's diameter, over a whole play: 3.6 % of all units where 64 zerglings crowd about two colossi,
# 0.9 % on corridor, 0.4 % on bane_vs_bane, below 0.1 % everywhere else. By more than a quarter: 16,
# 10, 9 and (27m_vs_30m) 3 %, and at most 0.6 % (6h_vs_8z, whose zealots share a target).
DEEP, DEEPER = 0.25, 0.5
TOLERATED = {DEEP: 0.01, DEEPER: 0.001}
IN_CROWDS = {DEEP: 0.2, DEEPER: 0.05}
TIGHT = {"corridor", *CROWDED}


@pytest.mark.parametrize("name", map_names())
def test_random_battles_keep_within_their_bounds(name: str) -> None:
    battles, steps = BATTLES, 45 if name in CROWDED else STEPS
    env = SkirmishEnv(name, battles, seed=17)
    draws = torch.Generator().manual_seed(4)
    shown = env.reset()
    dead = see(env, "health") <= 0
    assert not dead.any()
    first = see(env, "x")
    last = np.full((battles, env.info.n_agents), -1)
    over = np.zeros(battles, dtype=bool)
    overlaps: list[npt.NDArray[np.float64]] = []
    for step in range(steps):
        actions = random_actions(shown.avail_actions, draws)
        slots = [(COMPARED * step + i) % battles for i in range(COMPARED)]
        before = reference.take(env, slots)
        after = env.step(actions)
        last = np.where(over[:, None], last, actions.numpy())
        check_shown(env, after)
        check_by_the_reference(env, slots, before, last, over, after)
        check_places(env)
        check_bodies(env)
        dead = check_the_dead(env, dead, after)
        overlaps.append(overlap_of_units(env)[~dead & ~over[:, None]])
        shown = after.observation
        over = (after.terminated | after.truncated).numpy()
        if over.all():
            break
    rooted = np.array([unit.speed == 0 for unit in units(env)])
    assert ((see(env, "x") != first).any(0) != rooted).all()
    assert dead.any()
    found = np.concatenate(overlaps)
    for depth, share in (IN_CROWDS if name in TIGHT else TOLERATED).items():
        assert (found > depth).mean() <= share, depth


def check_shown(env: SkirmishEnv, after: Transition) -> None:
    """What a step shows of all battles makes sense."""
    shown = after.observation
    health = torch.as_tensor(see(env, "health"))[:, : env.info.n_agents]
    assert shown.avail_actions.any(2).all()
    assert (shown.avail_actions[:, :, 0] == (health <= 0)).all()
    assert shown.obs.isfinite().all()
    assert shown.state.isfinite().all()
    assert (after.reward >= 0).all()
    assert after.reward.isfinite().all()


def check_by_the_reference(
    env: SkirmishEnv,
    slots: list[int],
    before: list[reference.Battle],
    last: npt.NDArray[np.int64],
    was_over: npt.NDArray[np.bool_],
    after: Transition,
) -> None:
    """Masks, observations, state, reward and ending of these battles are the reference's.

    Args:
        before: the battles before the step.
        last: [E, A] the last actions.
        was_over: [E] before the step.
    """
    shown = after.observation
    for slot, expected in zip(slots, reference.show(env, last, slots), strict=True):
        assert np.array_equal(shown.avail_actions[slot].numpy(), expected.avail)
        assert np.array_equal(shown.obs[slot].numpy(), expected.obs)
        assert np.array_equal(shown.state[slot].numpy(), expected.state)
    for slot, then, now in zip(slots, before, reference.take(env, slots), strict=True):
        code, goes_on = reference.ending(now), not was_over[slot]
        assert after.terminated[slot].item() is (code is not None)
        assert after.battle_won[slot].item() is bool(code == 1 and goes_on)
        paid = reference.reward(then, now) if goes_on else 0.0
        assert after.reward[slot].item() == pytest.approx(paid, rel=1e-5, abs=1e-5)


def check_places(env: SkirmishEnv) -> None:
    """On the engine's grid, on the map, and on the ground that each unit's mover may be on."""
    x, y, terrain = see(env, "x"), see(env, "y"), env.scenario.terrain
    for places in (x, y):
        assert (places * GRAIN % 1 == 0).all()
        assert ((places >= 0) & (places < MAP_SIZE)).all()
    grounds = {"ground": terrain.pathable, "cliffs": terrain.level > 0}
    for mover, ground in grounds.items():
        who = [unit.mover == mover for unit in units(env)]
        assert ground[x[:, who].astype(int), y[:, who].astype(int)].all(), mover


def check_bodies(env: SkirmishEnv) -> None:
    """Health, shields, energy and clocks within what the unit has, and in numbers that add up."""
    kinds = units(env)
    alive = see(env, "health") > 0
    most = {
        "health": [unit.health for unit in kinds],
        "shield": [unit.shield for unit in kinds],
        "energy": [unit.heal.max_energy if unit.heal else 0.0 for unit in kinds],
        "cooldown": [unit.weapon.period + 2 if unit.weapon else 0.0 for unit in kinds],
        "shield_wait": [160.0 for _ in kinds],
        "pace": [unit.speed if unit.acceleration else 0.0 for unit in kinds],
    }
    for what, bounds in most.items():
        values = see(env, what)
        least = -1 if what == "cooldown" else 0  # what is left of a loop counts for the next attack
        within = (values >= least) & (values <= np.array(bounds, dtype=np.float32))
        assert (within | ~alive).all(), what
    for what in ("health", "shield"):
        assert (see(env, what) * GRAIN % 1 == 0).all()  # what float32 adds exactly in any order
    facing = np.hypot(see(env, "face_x"), see(env, "face_y"))
    assert np.abs(facing - 1).max() < 1e-3


def check_the_dead(
    env: SkirmishEnv, dead: npt.NDArray[np.bool_], after: Transition
) -> npt.NDArray[np.bool_]:
    """They stay dead and are counted; returns who is dead now, [E, N]."""
    n = env.info.n_agents
    now: npt.NDArray[np.bool_] = see(env, "health") <= 0
    assert (now | ~dead).all()
    assert (after.dead_allies.numpy() == now[:, :n].sum(1)).all()
    assert (after.dead_enemies.numpy() == now[:, n:].sum(1)).all()
    assert (see(env, "target")[now] == -1).all()
    one_side = now[:, :n].all(1) | now[:, n:].all(1)
    assert (after.terminated.numpy() | ~one_side).all()
    return now


def overlap_of_units(env: SkirmishEnv) -> npt.NDArray[np.float64]:
    """[E, N] how much deeper than touching a living unit stands in another, in diameters of the
    smaller of the two."""
    kinds = units(env)
    radius = np.array([unit.radius for unit in kinds])
    collide = np.array([[a.collides_with(b) for b in kinds] for a in kinds])
    np.fill_diagonal(collide, False)
    x, y, alive = see(env, "x"), see(env, "y"), see(env, "health") > 0
    distance = np.hypot(x[:, :, None] - x[:, None], y[:, :, None] - y[:, None])
    touching = radius[:, None] + radius - CONTACT
    depth = (touching - distance) / (2 * np.minimum(radius[:, None], radius))
    both = alive[:, :, None] & alive[:, None] & collide
    deepest: npt.NDArray[np.float64] = np.where(both, depth, 0.0).max(2)
    return deepest


@pytest.mark.parametrize("heuristic_ai", [True, False])
@pytest.mark.parametrize(("name", "tolerance"), [("3m", 0.2), ("5m_vs_6m", 0.35), ("3s5z", 0.45)])
def test_few_units_hardly_overlap(name: str, tolerance: float, heuristic_ai: bool) -> None:
    """On small maps no pair at all does by much, in diameters of the smaller one."""
    env = SkirmishEnv(name, 8, seed=2, heuristic_ai=heuristic_ai)
    shown = env.reset()
    generator = torch.Generator().manual_seed(3)
    for _ in range(30):
        assert overlap_of_units(env).max() <= tolerance
        shown = env.step(random_actions(shown.avail_actions, generator)).observation


@pytest.mark.parametrize("name", map_names())
def test_a_battle_has_the_same_bits_alone_and_among_64(name: str) -> None:
    steps, number, slot = 14, 17, 40
    numbers = torch.arange(100, 164)
    numbers[slot] = number
    alone, among = SkirmishEnv(name, 1, seed=3), SkirmishEnv(name, 64, seed=3)
    plays = play(alone, torch.tensor([number]), steps), play(among, numbers, steps)
    for one, many in zip(*plays, strict=False):
        assert_same(slot_of(one, 0), slot_of(many, slot))
    for field in fields(World):
        values = getattr(alone.world, field.name), getattr(among.world, field.name)
        assert torch.equal(values[0][:, 0], values[1][:, slot]), field.name
