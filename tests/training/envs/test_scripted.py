"""SMAC's scripted player where there are medivacs: whom they heal, and whom nobody attacks."""

from __future__ import annotations

import pytest
import torch

from tests.training.envs.battlefield import ATTACK, EAST, NORTH, STOP, Placed, act, battle, show
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.scripted import Scripted
from training.envs.skirmish.world import NOBODY

NO_OP = 0
FAR = Placed(30, 28)


def squad(*health: float, medivac: Placed | None = None, near: float = 20) -> SkirmishEnv:
    """Marines at (12, 16), (20, 16) and (9, 20) with this much health, then two medivacs at (8, 16)
    and, hurt, (9, 16). An enemy medivac at `near`, a marine beyond."""
    places = [(12.0, 16.0), (20.0, 16.0), (9.0, 20.0)]
    marines = [Placed(*at, health=h) for at, h in zip(places, health, strict=True)]
    medivacs = [medivac or Placed(8, 16), Placed(9, 16, health=70)]
    enemies = {"marine": [FAR], "medivac": [Placed(near, 12)]}
    return battle({"marine": marines, "medivac": medivacs}, enemies)


def orders(
    env: SkirmishEnv, targets: list[int] | None = None, rest: bool = False
) -> tuple[list[int], list[int]]:
    """Everybody's order and target in the first battle."""
    n = env.info.n_agents
    target = torch.tensor(targets or [NOBODY] * n)[:, None]
    available = show(env).avail_actions.permute(1, 2, 0)
    units = env.features.units(env.world, None)
    order, target = Scripted(env.features.heals, n, rest).orders(units, target, available)
    return order[:, 0].tolist(), target[:, 0].tolist()


def test_a_medivac_goes_to_the_nearest_hurt_agent_that_is_none() -> None:
    # Agent 0 is whole; of the hurt ones 2 is nearer than 1, and medivac 4 nearer than both.
    order, target = orders(squad(45, 30, 44))
    assert (order[3], target[3]) == (ATTACK + 2, 2)
    assert (order[4], target[4]) == (ATTACK + 2, 2)
    order, target = orders(squad(44, 30, 0))  # the dead are beyond it
    assert (order[3], target[3]) == (ATTACK + 0, 0)


def test_a_medivac_keeps_to_one_until_it_is_whole_or_dead() -> None:
    def third(*health: float) -> int:
        """The next target of medivac 3, which has healed agent 1 so far."""
        return orders(squad(*health), [NOBODY, NOBODY, NOBODY, 1, NOBODY])[1][3]

    assert third(10, 44, 45) == 1
    assert third(10, 45, 45) == 0
    assert third(10, 0, 45) == 0
    assert third(45, 45, 45) == NOBODY


def test_a_medivac_without_patients_gets_no_command() -> None:
    order, target = orders(squad(45, 45, 45))
    assert order[3:] == [NO_OP, NO_OP]
    assert target[3:] == [NOBODY, NOBODY]
    assert orders(squad(45, 45, 45), rest=True)[0][3:] == [NO_OP, NO_OP]


def test_all_but_medivacs_attack_the_nearest_enemy_medivacs_too() -> None:
    order, target = orders(squad(45, 30, 45))
    assert order[:3] == [ATTACK + 1] * 3  # enemy 1 is the medivac; weapons do not matter
    assert target[:3] == [6] * 3
    kept = orders(squad(45, 30, 45), [5, 6, NOBODY, NOBODY, NOBODY])[1]
    assert kept[:3] == [5, 6, 6]


@pytest.mark.parametrize(
    ("at", "order"),
    [
        (Placed(14, 16), ATTACK + 1),  # at 6: it can heal agent 1
        (Placed(13.9375, 16), EAST),
        (Placed(19, 9.5), NORTH),
    ],
)
def test_a_resting_medivac_heals_what_it_may_and_steps_toward_the_rest(
    at: Placed, order: int
) -> None:
    assert orders(squad(45, 30, 45, medivac=at), rest=True)[0][3] == order


def test_the_environment_remembers_whom_its_medivac_heals() -> None:
    marines = [Placed(12, 16, health=40), Placed(14, 20, health=40)]
    env = battle(
        {"marine": marines, "medivac": [Placed(9, 16)]},
        {"marine": [Placed(28, 12)], "medivac": [FAR]},
        heuristic_ai=True,
    )
    state = act(env, STOP, STOP, STOP).observation.state[0]
    assert state[-8:].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]  # the caller's stop
    saved = env.state_dict()["heuristic_target"]
    assert saved[2].tolist() == [0]
    assert saved[:2, 0].tolist() == [3, 3]
