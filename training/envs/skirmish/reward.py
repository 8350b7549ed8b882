"""SMAC's reward and its rules of a battle's end (spec §3), on [N, B] health and shields."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.envs.skirmish.options import SkirmishOptions
from training.envs.skirmish.scenario import Scenario, UnitType

UNDECIDED, WON, LOST, DRAWN = 0, 1, 2, 3


def max_reward(scenario: Scenario, options: SkirmishOptions) -> float:
    """The sum of all shaped rewards of a win without enemy regeneration, before scaling."""
    enemies = scenario.enemy_units
    return (
        len(enemies) * options.reward_death_value
        + options.reward_win
        + sum(unit.health + unit.shield for unit in enemies)
    )


class Ending:
    """SMAC's rules of when a battle is over.

    It is lost without a living ally, or, on maps where allies heal, with none left but healers.
    Else it is won without a living enemy, or once the last one left is a healer. When all are
    dead it is a draw, but where allies heal the first rule makes it a defeat.
    """

    def __init__(self, units: list[UnitType], n_allies: int, device: torch.device) -> None:
        self._n = n_allies
        heals = [unit.heal is not None for unit in units]
        self._allies_heal, self._enemies_heal = any(heals[:n_allies]), any(heals[n_allies:])
        self._fights = ~torch.tensor(heals, device=device)[:, None]

    def __call__(self, health: Tensor) -> Tensor:
        """[B] int64, UNDECIDED, WON, LOST or DRAWN, of [N, B] health."""
        n = self._n
        alive = health > 0
        allies, enemies = alive[:n].any(0), alive[n:].any(0)
        lost, beaten = ~allies & enemies, ~enemies
        if self._allies_heal:
            lost = ~(alive[:n] & self._fights[:n]).any(0)
        if self._enemies_heal:
            fighters = (alive[n:] & self._fights[n:]).any(0)
            beaten = beaten | (~fighters & (alive[n:].sum(0) == 1))
        code = torch.where(allies & beaten, WON, UNDECIDED)
        code = torch.where(~allies & ~enemies, DRAWN, code)
        return torch.where(lost, LOST, code)


@dataclass(frozen=True)
class Reward:
    """Computes the team's reward of a step from the units before and after it."""

    options: SkirmishOptions
    n_allies: int
    max_reward: float

    def __call__(
        self,
        health_before: Tensor,
        shield_before: Tensor,
        health: Tensor,
        shield: Tensor,
        code: Tensor,
    ) -> Tensor:
        """[B] float32. The dead are those of health 0; who was dead before no longer counts."""
        options, n = self.options, self.n_allies
        if options.reward_sparse:
            reward = (code == WON).float() - (code == LOST).float()
        else:
            counted = health_before > 0
            before = health_before + shield_before
            now = torch.where(health > 0, health + shield, 0.0)
            # All these are multiples of 1/4096, with sums below 4096: float32 adds them exactly in
            # any order.
            lost = torch.where(counted, before - now, 0.0)
            died = (counted & (health <= 0)).float() * options.reward_death_value
            gained = lost[n:].sum(0) + died[n:].sum(0)
            if options.reward_only_positive:
                # SMAC takes the absolute value: a net regeneration of the enemy pays too.
                reward = gained.abs()
            else:
                paid = lost[:n].sum(0) + died[:n].sum(0)
                reward = gained - options.reward_negative_scale * paid
            reward = reward + torch.where(code == WON, options.reward_win, 0.0)
            reward = reward + torch.where(code == LOST, options.reward_defeat, 0.0)
        if options.reward_scale:
            reward = reward / (self.max_reward / options.reward_scale_rate)
        return reward
