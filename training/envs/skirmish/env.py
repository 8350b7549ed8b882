"""Skirmish: SMAC's battles in an embedded simulator, batched over E on one torch device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.envs.base import UnavailableActionError
from training.envs.skirmish import rng
from training.envs.skirmish.compiled import F, compiled
from training.envs.skirmish.enemy_order import enemy_indices
from training.envs.skirmish.features import N_NON_ATTACK, NO_OP, STOP_ACTION, Features
from training.envs.skirmish.ground import MOVES
from training.envs.skirmish.layout import in_agent_order
from training.envs.skirmish.loop import tick
from training.envs.skirmish.movement import on_ground, whole_grains
from training.envs.skirmish.options import SkirmishOptions, parse_options
from training.envs.skirmish.orders import Orders, obey
from training.envs.skirmish.reward import UNDECIDED, WON, Ending, Reward, max_reward
from training.envs.skirmish.scenario import Scenario, load_scenario, unit_types
from training.envs.skirmish.scripted import Scripted
from training.envs.skirmish.world import (
    ATTACK,
    ATTACK_MOVE,
    HEAL,
    MOVE,
    NOBODY,
    STOP,
    World,
    build_tables,
    on_grain,
    root,
    spawn_positions,
)
from training.types import EnvInfo, Observation, Transition

HEAD_START = 1  # game loops the enemies have walked before the first observation
_GOAL_DRAW, _FACING_DRAW = 1 << 20, (1 << 20) + 1  # counters that no game loop reaches


class Slots(NamedTuple):
    """How the E battles stand. No tensor of it is ever changed: a step makes a new one."""

    world: World
    battle_ids: Tensor
    """[E] int64."""
    keys: Tensor
    """[E] int64, of the battles' draws."""
    steps: Tensor
    """[E] int64, taken in the episode."""
    over: Tensor
    """[E] bool."""
    truncated: Tensor
    """[E] bool."""
    last_actions: Tensor
    """[n, E] int64, -1 right after a reset."""
    heuristic_target: Tensor
    """[n, E] int64, of SMAC's scripted player."""
    enemy_index: Tensor | None
    """[k, E] int64, the enemy, by order of creation, that is shown as each; None if it is the same
    one in all battles."""


class Outcome(NamedTuple):
    """What a step has brought beside the battles as they now stand; all [E]."""

    decided: Tensor
    won: Tensor
    reward: Tensor
    dead_allies: Tensor
    dead_enemies: Tensor


class SkirmishEnv:
    """E battles on one map; see `training.envs.base.BatchedEnv` for the protocol.

    Args:
        map_name: one of `scenario.map_names()`, or a `Scenario`.
        n_envs: E.
        seed: with a battle's number, fixes all random draws of that battle.
        device: where the tensors live.
        compile: compile what is played every step. It takes its time at the first step, and the
            battles are the same to the bit.
        env_args: SMAC's options, see `SkirmishOptions`.

    Raises:
        ScenarioError: unknown map. OptionError: unknown or unusable option.
    """

    def __init__(
        self,
        map_name: str | Scenario,
        n_envs: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        compile: bool = False,
        **env_args: Any,
    ) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, not {n_envs}")
        scenario = load_scenario(map_name) if isinstance(map_name, str) else map_name
        self.options: SkirmishOptions = parse_options(env_args)
        self.n_envs, self.seed, self.device = n_envs, seed, torch.device(device)
        if self.options.unit_data != "liberty":
            scenario = scenario.with_units(unit_types(self.options.unit_data))
        self.scenario = scenario
        allies = in_agent_order(scenario)
        units = allies + scenario.enemy_units
        self.tables = build_tables(scenario, units, self.device, self.options.enemy_healers)
        self.features = Features(scenario, self.options, self.device)
        self._n = len(allies)
        self._heals = torch.tensor([[u.heal is not None] for u in allies], device=self.device)
        self._offsets = torch.tensor(MOVES, device=self.device) * self.options.move_amount
        self._reward = Reward(self.options, self._n, max_reward(scenario, self.options))
        self._ending = Ending(units, self._n, self.device)
        self._scripted = Scripted(self.features.heals, self._n, self.options.heuristic_rest)
        layout = self.features.layout
        self.info = EnvInfo(
            name="skirmish",
            map_name=scenario.name,
            n_agents=self._n,
            n_enemies=len(scenario.enemy_units),
            n_actions=len(layout.actions),
            obs_dim=len(layout.obs),
            state_dim=len(layout.state),
            episode_limit=scenario.episode_limit,
            unit_types=tuple(unit.name for unit in allies),
            continuing_episode=self.options.continuing_episode,
            layout_sha256=layout.sha256,
        )
        angles = torch.arange(256, dtype=torch.float64) * (2 * torch.pi / 256)
        compass = torch.stack((angles.cos(), angles.sin()), 1)
        self._compass = compass.to(self.device, torch.float32)
        self._compile(compile)
        self._spawn = self._spawn_world()
        self._slots = self._empty_slots()
        self._next_battle = 0
        self.reset()
        self._next_battle = 0

    def _compile(self, fast: bool) -> None:
        """The functions of tensors that every step goes through, compiled if it shall be fast."""

        def made(function: F) -> F:
            return compiled(function, self.device) if fast else function

        self._tick, self._begin = made(tick), made(self._begun)
        self._give_orders, self._settle = made(self._ordered), made(self._settled)

    # ------------------------------------------------------------------ reset

    def reset(self, mask: Tensor | None = None, battle_ids: Tensor | None = None) -> Observation:
        """Begin new battles in the slots of `mask`; see `BatchedEnv.reset`."""
        if mask is None:
            mask = torch.ones(self.n_envs, dtype=torch.bool, device=self.device)
        if battle_ids is None:
            battle_ids = self._next_battle + torch.cumsum(mask, 0) - 1
        battle_ids = battle_ids.to(self.device, torch.int64)
        self._slots, observation = self._begin(mask, battle_ids, self._spawn, self._slots)
        highest = torch.where(mask, battle_ids, -1).max()
        self._next_battle = max(self._next_battle, int(highest) + 1)
        self._available = observation.avail_actions
        return observation

    def _spawn_world(self) -> World:
        """All units at their places, [N, E], before any order."""
        allies, enemies = spawn_positions(self.scenario)
        tables, shape = self.tables, (self.tables.n_units, self.n_envs)
        places = torch.cat((torch.as_tensor(allies), torch.as_tensor(enemies))).to(self.device)
        zeros = torch.zeros(shape, device=self.device)
        nobody = torch.full(shape, NOBODY, dtype=torch.int64, device=self.device)
        orders = torch.full_like(nobody, STOP)
        if self.scenario.attack_move or self.scenario.pursues:
            orders[self._n :] = ATTACK_MOVE
        if self.options.enemy_healers == "stay":
            for healer in tables.healers:
                orders[healer.unit] = STOP
        x, y = (on_grain(places[:, i : i + 1]).expand(shape).clone() for i in (0, 1))
        return World(
            x=x,
            y=y,
            face_x=zeros + 1,
            face_y=zeros,
            health=tables.health.expand(shape).clone(),
            shield=tables.shield.expand(shape).clone(),
            shield_wait=zeros,
            energy=tables.energy_at_start.expand(shape).clone(),
            cooldown=zeros,
            windup=zeros - 1,
            recovery=zeros,
            order=orders,
            target=nobody,
            engaged=torch.zeros(shape, dtype=torch.bool, device=self.device),
            goal_x=x,
            goal_y=y,
            pace=zeros,
            side=zeros,
            pending=zeros,
            pending_target=nobody,
        )

    def _empty_slots(self) -> Slots:
        """Before the first reset. No two entries are one tensor, as later: else the first reset
        would be compiled for itself."""
        world = World(**{f.name: getattr(self._spawn, f.name).clone() for f in fields(World)})
        numbers = torch.zeros((3, self.n_envs), dtype=torch.int64, device=self.device)
        ids, keys, steps = numbers.unbind()
        over, truncated = ids.bool(), ids.bool()
        last, aims = (torch.full_like(world.target[: self._n], NOBODY) for _ in range(2))
        order = self._enemies_in_order(world, keys)
        return Slots(world, ids, keys, steps, over, truncated, last, aims, order)

    def _begun(
        self, mask: Tensor, battle_ids: Tensor, spawn: World, others: Slots
    ) -> tuple[Slots, Observation]:
        """New battles in the slots of `mask`, the others as they are, and what all show."""
        keys = torch.where(mask, rng.battle_keys(self.seed, battle_ids), others.keys)
        world = self._set_out(spawn, keys).where(mask, others.world)
        order = self._enemies_in_order(world, keys)
        if order is not None:
            order = torch.where(mask, order, others.enemy_index)  # type: ignore[arg-type]
        slots = Slots(
            world=world,
            battle_ids=torch.where(mask, battle_ids, others.battle_ids),
            keys=keys,
            steps=torch.where(mask, 0, others.steps),
            over=others.over & ~mask,
            truncated=others.truncated & ~mask,
            last_actions=torch.where(mask, -1, others.last_actions),
            heuristic_target=torch.where(mask, NOBODY, others.heuristic_target),
            enemy_index=order,
        )
        return slots, self._shown(slots)

    def _set_out(self, world: World, keys: Tensor) -> World:
        """The battles as they begin: the enemies have their order and are on their way.

        Who is not under way looks anywhere.
        A group's order leads each of its units to the point plus its place in the group.
        """
        goal_x, goal_y = self._goals(world, keys)
        dx, dy = goal_x - world.x, goal_y - world.y
        norm = root(dx * dx + dy * dy).clamp_min(1e-6)
        pace = torch.where(norm > 1e-6, self.tables.acceleration * HEAD_START, 0.0)
        walked = torch.where(pace > 0, pace, self.tables.speed * HEAD_START).minimum(norm)
        looks = self._compass[rng.draw(keys, _FACING_DRAW, self.tables.index) % len(self._compass)]
        return replace(
            world,
            x=world.x + whole_grains(dx / norm * walked),
            y=world.y + whole_grains(dy / norm * walked),
            face_x=torch.where(norm > 1e-6, dx / norm, looks[..., 0]),
            face_y=torch.where(norm > 1e-6, dy / norm, looks[..., 1]),
            goal_x=goal_x,
            goal_y=goal_y,
            pace=pace,
        )

    def _goals(self, world: World, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Where everybody is ordered to; those without a point: where they are."""
        ends = self.scenario.attack_move
        if not ends:
            return world.goal_x, world.goal_y
        (x0, y0), (x1, y1) = ends[0], ends[-1]
        along = rng.unit_interval(rng.draw(keys, _GOAL_DRAW) >> 8, 24)
        sent = world.order == ATTACK_MOVE
        to_x, to_y = x0 + (x1 - x0) * along, y0 + (y1 - y0) * along
        goal_x = to_x + world.x - world.x[self._n :].mean(0)
        goal_y = to_y + world.y - world.y[self._n :].mean(0)
        holds = on_ground(self.tables, goal_x, goal_y)
        goal_x, goal_y = torch.where(holds, goal_x, to_x), torch.where(holds, goal_y, to_y)
        return torch.where(sent, goal_x, world.goal_x), torch.where(sent, goal_y, world.goal_y)

    # ------------------------------------------------------------------- step

    def step(self, actions: Tensor) -> Transition:
        """Advance every battle by one step; see `BatchedEnv.step`."""
        actions = actions.to(self.device, torch.int64)
        shape = (self.n_envs, self._n)
        if actions.shape != shape:
            raise ValueError(f"actions have shape {tuple(actions.shape)}, expected {shape}")
        slots = self._slots
        orders = actions
        if self.options.heuristic_ai:  # it plays by itself, and ignores the masks as SMAC's does
            orders, slots = self._heuristic_orders(slots)
        world, forbidden = self._give_orders(slots, orders, self._available)
        if not self.options.heuristic_ai:
            self._refuse(forbidden, actions)
        for i in range(self.options.step_mul):
            loop = slots.steps * self.options.step_mul + i
            world = self._tick(world, self.tables, slots.keys, loop)
        self._slots, outcome, observation = self._settle(slots, world, actions)
        self._available = observation.avail_actions
        return Transition(
            observation=observation,
            reward=outcome.reward,
            terminated=outcome.decided,
            truncated=self._slots.truncated.clone(),
            battle_won=outcome.won,
            dead_allies=outcome.dead_allies,
            dead_enemies=outcome.dead_enemies,
        )

    def _settled(
        self, before: Slots, after: World, actions: Tensor
    ) -> tuple[Slots, Outcome, Observation]:
        """What a step of the game loop has come to; battles that were over stay as they were."""
        was_over = before.over
        world = before.world.where(was_over, after)
        steps = torch.where(was_over, before.steps, before.steps + 1)
        code = self._ending(world.health)
        decided = code != UNDECIDED
        truncated = ~decided & (steps >= self.info.episode_limit)
        old = before.world
        reward = self._reward(old.health, old.shield, world.health, world.shield, code)
        dead = world.health <= 0
        outcome = Outcome(
            decided=decided,
            won=(code == WON) & ~was_over,
            reward=torch.where(was_over, 0.0, reward),
            dead_allies=dead[: self._n].sum(0),
            dead_enemies=dead[self._n :].sum(0),
        )
        slots = before._replace(
            world=world,
            steps=steps,
            over=decided | truncated,
            truncated=truncated,
            last_actions=torch.where(was_over, before.last_actions, actions.T),
        )
        return slots, outcome, self._shown(slots)

    def _refuse(self, forbidden: Tensor, actions: Tensor) -> None:
        """Raise for the first of the actions that are forbidden, [E, n] bool, if there is one."""
        if bool(forbidden.any()):
            slot, agent = (int(i) for i in forbidden.nonzero()[0])
            battle = int(self._slots.battle_ids[slot])
            raise UnavailableActionError(battle, agent, int(actions[slot, agent]))

    def _ordered(self, slots: Slots, by_battle: Tensor, available: Tensor) -> tuple[World, Tensor]:
        """Turn actions [E, n] into orders, and have them obeyed.

        Returns also which actions are not among the available ones, [E, n] bool. No-op for a
        living unit (SMAC's heuristic for an idle medivac) is as if nothing had been said.
        """
        n, world, n_actions = self._n, slots.world, self.info.n_actions
        allowed = available.gather(2, by_battle.clamp(0, n_actions - 1)[:, :, None])[:, :, 0]
        allowed = allowed & (by_battle >= 0) & (by_battle < n_actions)
        actions = self._as_created(by_battle.T, slots.enemy_index)
        targeted = actions >= N_NON_ATTACK
        heals = targeted & self._heals
        moves = (actions > STOP_ACTION) & ~targeted
        # (The actions of battles that are over may be anything.)
        last = self.tables.n_units - 1
        aimed_at = (torch.where(heals, 0, n) + actions - N_NON_ATTACK).clamp(0, last)
        order = torch.where(
            heals, HEAL, torch.where(targeted, ATTACK, torch.where(moves, MOVE, STOP))
        )
        offset = self._offsets[(actions - 2).clamp(0, 3)]
        orders = Orders(
            given=actions != NO_OP,
            order=order,
            target=torch.where(targeted, aimed_at, NOBODY),
            goal_x=world.x[:n] + offset[..., 0],
            goal_y=world.y[:n] + offset[..., 1],
        )
        return obey(world, self.tables, orders), ~allowed & ~slots.over[:, None]

    def _as_created(self, actions: Tensor, enemy_index: Tensor | None) -> Tensor:
        """Actions [n, E] with the enemies numbered as they were created, as orders take them."""
        if enemy_index is None:
            return actions
        shown = (actions - N_NON_ATTACK).clamp(0, self.info.n_enemies - 1)
        attack = enemy_index.gather(0, shown) + N_NON_ATTACK
        attacks = actions >= N_NON_ATTACK
        if self.features.heals is not None:  # a healer's actions number agents
            attacks = attacks & ~self.features.heals
        return torch.where(attacks, attack, actions)

    def _heuristic_orders(self, slots: Slots) -> tuple[Tensor, Slots]:
        """SMAC's `heuristic_ai` as actions [E, n], whatever the masks say, and whom it now aims
        at."""
        units = self.features.units(slots.world, slots.enemy_index)
        available = self._available.permute(1, 2, 0)
        orders, target = self._scripted.orders(units, slots.heuristic_target, available)
        return orders.T, slots._replace(heuristic_target=target)

    # ----------------------------------------------------------------- viewing

    @property
    def world(self) -> World:
        """The units of all battles as they are now; allies by agent id, then enemies."""
        return self._slots.world

    def put(self, world: World) -> Observation:
        """Go on from this world, made of `world`, instead: what would come of it, debugging."""
        self._slots = self._slots._replace(world=world)
        observation = self._shown(self._slots)
        self._available = observation.avail_actions
        return observation

    def _shown(self, slots: Slots) -> Observation:
        shown = self.features.show(slots.world, slots.last_actions, slots.steps, slots.enemy_index)
        return shown.by_battle()

    def _enemies_in_order(self, world: World, keys: Tensor) -> Tensor | None:
        """See `Slots.enemy_index`."""
        enemies, n = self.scenario.enemy_units, self._n
        return enemy_indices(self.options.enemy_order, enemies, world.x[n:], world.y[n:], keys)

    # -------------------------------------------------------------- checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The world and the counters, as tensors and plain values."""
        world = {f.name: getattr(self.world, f.name).clone() for f in fields(World)}
        slots = self._slots._asdict().items()
        rest = {name: value.clone() for name, value in slots if isinstance(value, Tensor)}
        return {"world": world, "next_battle": self._next_battle, **rest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of an environment of the same map, size and options."""
        world = World(**{name: value.to(self.device) for name, value in state["world"].items()})
        names = [name for name in Slots._fields if name != "world" and name in state]
        rest = {name: state[name].to(self.device) for name in names}
        self._slots = self._slots._replace(**rest)
        self._next_battle = int(state["next_battle"])
        self.put(world)
