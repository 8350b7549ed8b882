"""What every `BatchedEnv` must hold, as checks that take a way to build one.

    build(n_envs, seed) -> BatchedEnv

Agents act by a fixed rule of (battle id, step, agent), so that the same battle can be played
again anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from training.envs.base import BatchedEnv, UnavailableActionError
from training.types import EnvInfo, Observation, Transition

Build = Callable[[int, int], BatchedEnv]
LONG = 400  # more steps than any episode


def ruled_actions(avail_actions: torch.Tensor, battle_ids: torch.Tensor, step: int) -> torch.Tensor:
    """[E, A] int64: of its available actions, each agent takes one that the rule picks."""
    agents = torch.arange(avail_actions.shape[1])
    number = battle_ids[:, None] * 7919 + step * 104729 + agents * 1299709 + step * agents * 31
    choice = (number * 2654435761 >> 7) % avail_actions.sum(2)
    place = avail_actions.long().cumsum(2) - 1
    return ((place == choice[..., None]) & avail_actions).int().argmax(2)


def play(env: BatchedEnv, battle_ids: torch.Tensor, steps: int = LONG) -> Iterator[Transition]:
    """The transitions of these battles until all have ended, or for so many steps."""
    shown = env.reset(battle_ids=battle_ids)
    for step in range(steps):
        after = env.step(ruled_actions(shown.avail_actions, battle_ids, step))
        yield after
        shown = after.observation
        if (after.terminated | after.truncated).all():
            return


def assert_same(one: Any, other: Any) -> None:
    """Equal to the bit, through tuples and dicts of tensors and plain values."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def slot_of(what: Any, slot: int) -> Any:
    """The entries of one slot of an `Observation` or a `Transition`."""
    if what is None:
        return None
    if isinstance(what, torch.Tensor):
        return what[slot]
    return tuple(slot_of(part, slot) for part in what)


# ------------------------------------------------------------------- checks


def check_shapes(build: Build) -> None:
    env = build(3, 0)
    assert env.n_envs == 3
    _check_observation(env.reset(), env.info, 3)
    for after in play(env, torch.arange(3), steps=3):
        _check_observation(after.observation, env.info, 3)
        for tensor, dtype in (
            (after.reward, torch.float32),
            (after.terminated, torch.bool),
            (after.truncated, torch.bool),
            (after.battle_won, torch.bool),
            (after.dead_allies, torch.int64),
            (after.dead_enemies, torch.int64),
        ):
            assert tensor.shape == (3,)
            assert tensor.dtype == dtype
            assert tensor.device == env.device
    assert len(env.info.unit_types) == env.info.n_agents
    assert len(env.info.layout_sha256) == 64


def _check_observation(shown: Observation, info: EnvInfo, n_envs: int) -> None:
    assert shown.obs.shape == (n_envs, info.n_agents, info.obs_dim)
    assert shown.state.shape == (n_envs, info.state_dim)
    assert shown.avail_actions.shape == (n_envs, info.n_agents, info.n_actions)
    dtypes = (shown.obs.dtype, shown.state.dtype, shown.avail_actions.dtype)
    assert dtypes == (torch.float32, torch.float32, torch.bool)
    assert shown.avail_actions.any(2).all()
    assert shown.obs.isfinite().all()
    assert shown.state.isfinite().all()


def check_unavailable_actions(build: Build) -> None:
    """They are refused by name, and no battle moves.

    Battles are numbered as their slots are, so either may name the battle at fault.
    """
    env = build(3, 0)
    battle_ids = torch.arange(3)
    shown = env.reset(battle_ids=battle_ids)
    n_actions, last = env.info.n_actions, env.info.n_agents - 1
    wrong = [n_actions, -1]
    wrong += (~shown.avail_actions[1, last]).nonzero().flatten().tolist()[:2]
    before = env.state_dict()
    actions = ruled_actions(shown.avail_actions, battle_ids, 0)
    for action in wrong:
        asked = actions.clone()
        asked[1, last] = action
        asked[2, last] = action  # the first at fault is named
        message = f"battle 1: agent {last} was given action {action},"
        with pytest.raises(UnavailableActionError, match=message) as caught:
            env.step(asked)
        assert (caught.value.battle, caught.value.agent, caught.value.action) == (1, last, action)
        assert_same(env.state_dict(), before)
    env.step(actions)


def check_ended_battles_stand_still(build: Build) -> None:
    """Its actions are ignored, its reward is 0 and the rest repeats, while others go on."""
    env = build(2, 0)
    *_, after = play(env, torch.arange(2))
    over = after.terminated | after.truncated
    assert over.all()
    shown = env.reset(torch.tensor([False, True]), torch.tensor([0, 9]))
    assert_same(slot_of(shown, 0), slot_of(after.observation, 0))
    actions = ruled_actions(shown.avail_actions, torch.arange(2), 0)
    actions[0] = env.info.n_actions + 5
    again = env.step(actions)
    assert again.reward[0] == 0
    assert not again.battle_won[0]
    still = (again.observation, *again[2:4], *again[5:])
    assert_same(slot_of(still, 0), slot_of((after.observation, *after[2:4], *after[5:]), 0))
    assert not torch.equal(again.observation.state[1], shown.state[1])


def check_a_reset_touches_only_its_slots(build: Build) -> None:
    env, other = build(3, 0), build(3, 0)
    ids = torch.tensor([4, 5, 6])
    for a, b in zip(play(env, ids, 1), play(other, ids, 1), strict=True):
        assert_same(a, b)
        shown = a.observation
    begun = env.reset(torch.tensor([False, True, False]), torch.tensor([0, 4, 0]))
    for slot in (0, 2):
        assert_same(slot_of(begun, slot), slot_of(shown, slot))
    assert_same(slot_of(begun, 1), slot_of(build(1, 0).reset(battle_ids=torch.tensor([4])), 0))
    # Slots 0 and 2 go on as if nothing had been.
    a = env.step(ruled_actions(begun.avail_actions, torch.tensor([4, 4, 6]), 1))
    b = other.step(ruled_actions(shown.avail_actions, ids, 1))
    for slot in (0, 2):
        assert_same(slot_of(a, slot), slot_of(b, slot))
    # A mask of nothing begins nothing.
    assert_same(env.reset(torch.zeros(3, dtype=torch.bool)), a.observation)


def check_a_battle_is_the_same_anywhere(build: Build, n_envs: int = 64) -> None:
    """Battle 17 alone, and in a slot among many, to the bit, to its end."""
    many = build(n_envs, 3)
    shuffled = torch.randperm(n_envs, generator=torch.Generator().manual_seed(1))
    slot = int((shuffled == 17).nonzero())
    alone = list(play(build(1, 3), torch.tensor([17])))
    among = list(play(many, shuffled, len(alone)))
    assert alone[-1].terminated | alone[-1].truncated
    for a, b in zip(alone, among, strict=True):
        assert_same(slot_of(a, 0), slot_of(b, slot))


def check_the_same_seed_plays_the_same(build: Build) -> None:
    ids = torch.tensor([100, 7, 2**40])
    for a, b in zip(play(build(3, 8), ids, 25), play(build(3, 8), ids, 25), strict=True):
        assert_same(a, b)


def check_seeds_and_numbers_make_battles_differ(build: Build) -> None:
    """The same actions lead elsewhere under another seed, or in a battle of another number."""

    def end(seed: int, battle_id: int) -> torch.Tensor:
        env = build(1, seed)
        shown = env.reset(battle_ids=torch.tensor([battle_id]))
        for step in range(20):
            actions = ruled_actions(shown.avail_actions, torch.tensor([0]), step)
            shown = env.step(actions).observation
        return shown.state

    first = end(0, 0)
    assert torch.equal(end(0, 0), first)
    for seed, battle_id in ((1, 0), (2**32, 0), (0, 1), (0, 2**32)):
        assert not torch.equal(end(seed, battle_id), first), (seed, battle_id)


def check_a_saved_state_goes_on(build: Build) -> None:
    env, other = build(2, 0), build(2, 0)
    ids = torch.tensor([1, 2])
    steps = min(6, env.info.episode_limit - 1)
    *_, after = play(env, ids, steps)
    saved = env.state_dict()

    def go_on(env: BatchedEnv) -> list[Any]:
        shown, seen = after.observation, []
        for step in range(steps, steps + 8):
            seen.append(env.step(ruled_actions(shown.avail_actions, ids, step)))
            shown = seen[-1].observation
        return [*seen, env.reset(), env.reset(torch.tensor([True, False]))]

    went_on = go_on(env)  # must leave `saved` as it was
    other.load_state_dict(saved)
    assert_same(tuple(go_on(other)), tuple(went_on))
    assert_same(other.state_dict(), env.state_dict())
    env.load_state_dict(saved)  # and so must loading it
    assert_same(tuple(go_on(env)), tuple(went_on))
