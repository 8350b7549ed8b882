"""What SMAC shows: availability, observations and state, to the scale of every entry.

Sources: SMAC's interface, spec §2; `layout.py` names the entries in their order. Distances
between units are taken in float64 and then rounded, as SMAC does; all else is float32, where
that gives the same bits.

`Features.show` is one function of tensors without a branch on their values, so that it can be
compiled together with the simulator's loop; what differs between maps and options is decided
when it is traced.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.envs.skirmish.ground import Ground
from training.envs.skirmish.layout import build_layout, has_shields, in_agent_order
from training.envs.skirmish.options import SkirmishOptions
from training.envs.skirmish.scenario import MAP_SIZE, Scenario, UnitType
from training.envs.skirmish.world import World
from training.types import Observation

SHOOT_RANGE = 6.0  # of every unit type, centre to centre: <= is in range
SIGHT_RANGE = 9.0  # of every unit type, centre to centre: < is visible
N_NON_ATTACK = 6  # no-op, stop, north, south, east, west
NO_OP, STOP_ACTION = 0, 1


class Shown(NamedTuple):
    """What B battles show."""

    available: Tensor
    """[n, U, B] bool."""
    obs: Tensor
    """[n, O, B] float32."""
    state: Tensor
    """[S, B] float32."""

    def by_battle(self) -> Observation:
        """The same with battles first, as their users take them."""
        n, _, n_battles = self.obs.shape
        return Observation(
            obs=self.obs.flatten(0, 1).T.contiguous().view(n_battles, n, -1),
            state=self.state.T.contiguous(),
            avail_actions=self.available.permute(2, 0, 1).contiguous(),
        )


class Units(NamedTuple):
    """The units [N, B] in the order in which they are shown."""

    x: Tensor
    y: Tensor
    alive: Tensor
    health: Tensor
    """As a fraction, and so the shield."""
    shield: Tensor
    enemy_types: Tensor
    """[k, t, B]; t is 0 on maps of one unit type."""


class _Sight(NamedTuple):
    """Every agent's view of every unit, [n, N, B]."""

    dx: Tensor
    dy: Tensor
    squared: Tensor
    """float64, of the distance: exact, as roots are not."""
    visible: Tensor
    """To the living alone."""


class Features:
    """Turns a `World` into what SMAC would show of it."""

    def __init__(self, scenario: Scenario, options: SkirmishOptions, device: torch.device) -> None:
        allies, enemies = in_agent_order(scenario), scenario.enemy_units
        self.layout = build_layout(scenario, options)
        self.n, self.k = len(allies), len(enemies)
        self._options, self._limit = options, scenario.episode_limit
        self._ground = Ground(scenario.terrain, options, device)
        self._ally_shields, self._enemy_shields = has_shields(allies), has_shields(enemies)
        heals = torch.tensor([[unit.heal is not None] for unit in allies], device=device)
        self.heals: Tensor | None = heals if bool(heals.any()) else None
        """[n, 1] bool, the agents whose attack actions heal agents; None on maps without any."""

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        self._max_health = column([unit.health for unit in allies + enemies])
        self._max_shield = column([max(unit.shield, 1.0) for unit in allies + enemies])
        self._max_cooldown = column([unit.smac_max_cooldown for unit in allies])
        bits = scenario.unit_type_bits
        self._ally_types = _one_hot(allies, scenario.ally_types if bits else (), device)
        self._enemy_types = _one_hot(enemies, scenario.enemy_types if bits else (), device)

    def show(
        self,
        world: World,
        last_actions: Tensor,
        steps: Tensor,
        enemy_index: Tensor | None = None,
    ) -> Shown:
        """What the battles show.

        Args:
            last_actions: [n, B] int64, -1 right after a reset.
            steps: [B] int64, taken in the episode.
            enemy_index: [k, B] int64, the enemy by order of creation that is shown as enemy e;
                by default e itself.
        """
        units = self.units(world, enemy_index)
        sight = self._sight(units)
        available = self._available(units, sight)
        last = self._last_action_rows(last_actions)
        obs = self._obs(units, sight, available, last)
        if self._options.obs_instead_of_state:
            return Shown(available, obs, obs.flatten(0, 1))
        return Shown(available, obs, self._state(world, units, last, steps))

    def units(self, world: World, enemy_index: Tensor | None) -> Units:
        """The units as `show` numbers them."""
        alive = world.health > 0
        health, shield = world.health / self._max_health, world.shield / self._max_shield
        if enemy_index is None:
            types = self._enemy_types.expand(-1, -1, world.x.shape[1])
            return Units(world.x, world.y, alive, health, shield, types)

        def listed(column: Tensor) -> Tensor:
            return torch.cat((column[: self.n], column[self.n :].gather(0, enemy_index)))

        types = self._enemy_types[:, :, 0][enemy_index].permute(0, 2, 1)
        x, y = listed(world.x), listed(world.y)
        return Units(x, y, listed(alive), listed(health), listed(shield), types)

    def _sight(self, units: Units) -> _Sight:
        # Positions are multiples of 1/4096, so that float32 subtracts them exactly.
        dx = units.x[None] - units.x[: self.n, None]
        dy = units.y[None] - units.y[: self.n, None]
        wide_x, wide_y = dx.double(), dy.double()
        squared = wide_x * wide_x + wide_y * wide_y
        sees = (squared < SIGHT_RANGE**2) & units.alive & units.alive[: self.n, None]
        return _Sight(dx, dy, squared, sees)

    # ------------------------------------------------------------ availability

    def _available(self, units: Units, sight: _Sight) -> Tensor:
        """[n, U, B] bool (spec §2.3). A dead agent has no-op alone, a living one never has it."""
        n = self.n
        alive = units.alive[:n, None]
        can_move = self._ground.can_move(units.x[:n], units.y[:n])
        near = (sight.squared <= SHOOT_RANGE**2) & units.alive
        targets = near[:, n:]
        if self.heals is not None:
            # A healer's target j is agent j, as far as there are agents and action numbers.
            patients = (near[:, :n] & ~self.heals)[:, : self.k]
            nobody = torch.zeros_like(targets[:, n:])
            patients = torch.cat((patients, nobody), 1)
            targets = torch.where(self.heals[:, None], patients, targets)
        return torch.cat((~alive, alive, can_move & alive, targets & alive), 1)

    # ------------------------------------------------------------- observation

    def _obs(self, units: Units, sight: _Sight, available: Tensor, last: Tensor) -> Tensor:
        """[n, O, B] float32 (spec §2.4)."""
        n, options = self.n, self._options
        # A healer's enemy blocks begin with its mask too: with "can heal agent e".
        first = available[:, N_NON_ATTACK:].float()
        theirs = [units.enemy_types]
        enemies = self._blocks(units, sight, slice(n, None), first, self._enemy_shields, theirs)
        ours = [self._ally_types.expand(-1, -1, units.x.shape[1])]
        own = [units.health[:n, None]] if options.obs_all_health or options.obs_own_health else []
        if own and self._ally_shields:
            own.append(units.shield[:n, None])
        own += ours
        if options.obs_last_action:
            ours = [*ours, last]
        first = torch.ones_like(sight.dx[:, :n])
        allies = self._blocks(units, sight, slice(0, n), first, self._ally_shields, ours)
        around = self._ground.around(units.x[:n], units.y[:n])

        def of_the_living(block: Tensor) -> Tensor:
            return torch.where(units.alive[:n, None], block, 0.0)

        return torch.cat(
            (
                available[:, 2:N_NON_ATTACK].float(),
                *(of_the_living(block) for block in around),
                enemies.flatten(1, 2),
                _without_oneself(allies).flatten(1, 2),
                *(of_the_living(block) for block in own),
            ),
            1,
        )

    def _blocks(
        self,
        units: Units,
        sight: _Sight,
        seen: slice,
        first: Tensor,
        shields: bool,
        more: list[Tensor],
    ) -> Tensor:
        """[n, m, F, B]: what each agent sees of the m units of `seen`; zeros where it sees nothing.

        Args:
            first: [n, m, B], the block's first entry.
            more: [m, ·, B] entries after health and shield.
        """
        of_pair = [
            first,
            (torch.sqrt(sight.squared[:, seen]) / SIGHT_RANGE).float(),
            sight.dx[:, seen] / SIGHT_RANGE,
            sight.dy[:, seen] / SIGHT_RANGE,
        ]
        of_unit = []
        if self._options.obs_all_health:
            of_unit = [units.health[seen, None], *([units.shield[seen, None]] if shields else [])]
        of_unit = [block.expand(self.n, -1, -1, -1) for block in of_unit + more]
        blocks = torch.cat((torch.stack(of_pair, 2), *of_unit), 2)
        return torch.where(sight.visible[:, seen, None], blocks, 0.0)

    # ------------------------------------------------------------------- state

    def _state(self, world: World, units: Units, last: Tensor, steps: Tensor) -> Tensor:
        """[S, B] float32 (spec §2.6)."""
        n, batch = self.n, steps.shape[0]
        x = (units.x - MAP_SIZE / 2) / MAP_SIZE
        y = (units.y - MAP_SIZE / 2) / MAP_SIZE
        cooldown = world.cooldown[:n].clamp_min(0)  # below 0 is what is left of a loop
        if self.heals is not None:
            cooldown = torch.where(self.heals, world.energy[:n], cooldown)
        ally = [units.health[:n], cooldown / self._max_cooldown, x[:n], y[:n]]
        enemy = [units.health[n:], x[n:], y[n:]]
        if self._ally_shields:
            ally.append(units.shield[:n])
        if self._enemy_shields:
            enemy.append(units.shield[n:])
        ally_types = self._ally_types.expand(-1, -1, batch)
        rows = []
        for columns, types, alive in (
            (ally, ally_types, units.alive[:n]),
            (enemy, units.enemy_types, units.alive[n:]),
        ):
            row = torch.cat((torch.stack(columns, 1), types), 1)
            rows.append(torch.where(alive[:, None], row, 0.0).flatten(0, 1))
        if self._options.state_last_action:
            rows.append(last.flatten(0, 1))
        if self._options.state_timestep_number:
            rows.append((steps.float() / self._limit)[None])
        return torch.cat(rows, 0)

    def _last_action_rows(self, last_actions: Tensor) -> Tensor:
        """[n, U, B] one-hots; zeros where there is no last action."""
        actions = torch.arange(len(self.layout.actions), device=last_actions.device)
        return (last_actions[:, None] == actions[None, :, None]).float()


def _without_oneself(blocks: Tensor) -> Tensor:
    """[n, n - 1, F, B]: of each agent's blocks [n, n, F, B], all but its own, in ascending order.

    Laid out in a row, an agent's own block comes every n + 1 blocks.
    """
    n = blocks.shape[0]
    rest = blocks.flatten(0, 1)[1:].view(n - 1, n + 1, *blocks.shape[2:])
    return rest[:, :-1].reshape(n, n - 1, *blocks.shape[2:])


def _one_hot(units: list[UnitType], types: tuple[str, ...], device: torch.device) -> Tensor:
    """[units, t, 1] float32."""
    rows = [[float(unit.name == name) for name in types] for unit in units]
    return torch.tensor(rows, device=device).reshape(len(units), len(types), 1)
