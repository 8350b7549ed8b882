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
    of_target,
    on_grain,
    root,
    spawn_positions,
)
from training.types import EnvInfo, Observation, Transition

HEAD_START = 1  # game loops the enemies have walked before the first observation
_GOAL_DRAW, _FACING_DRAW = 1 << 20, (1 << 20) + 1  # counters that no game loop reaches


class Outcome(NamedTuple):
    """What a step has brought; all but the world [E]."""

    world: World
    steps: Tensor
    decided: Tensor
    truncated: Tensor
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
        self._next_battle = 0
        self._spawn = self._spawn_world()
        self._world = self._spawn
        self._keys = torch.zeros(n_envs, dtype=torch.int64, device=self.device)
        self._battle_ids = torch.zeros_like(self._keys)
        self._steps = torch.zeros_like(self._keys)
        self._over = torch.zeros(n_envs, dtype=torch.bool, device=self.device)
        self._truncated = torch.zeros_like(self._over)
        self._last_actions = self._no_actions()
        self._heuristic_target = self._no_actions()
        self._enemy_index: Tensor | None = None
        self.reset()
        self._next_battle = 0

    def _compile(self, fast: bool) -> None:
        """The functions of tensors that every step goes through, compiled if it shall be fast."""

        def made(function: F) -> F:
            return compiled(function, self.device) if fast else function

        self._tick, self._show = made(tick), made(self.features.show)
        self._give_orders, self._settle = made(self._ordered), made(self._settled)
        self._begin = made(self._begun)

    # ------------------------------------------------------------------ reset

    def reset(self, mask: Tensor | None = None, battle_ids: Tensor | None = None) -> Observation:
        """Begin new battles in the slots of `mask`; see `BatchedEnv.reset`."""
        if mask is None:
            mask = torch.ones(self.n_envs, dtype=torch.bool, device=self.device)
        if battle_ids is None:
            battle_ids = self._next_battle + torch.cumsum(mask, 0) - 1
        battle_ids = battle_ids.to(self.device, torch.int64)
        begun = battle_ids[mask]
        if len(begun):
            self._next_battle = max(self._next_battle, int(begun.max()) + 1)
        self._battle_ids = torch.where(mask, battle_ids, self._battle_ids)
        self._keys = torch.where(mask, rng.battle_keys(self.seed, battle_ids), self._keys)
        self._world = self._begin(mask, self._spawn, self._world, self._keys)
        order = self._enemies_in_order(self._world)
        if order is not None:
            before = order if self._enemy_index is None else self._enemy_index
            self._enemy_index = torch.where(mask, order, before)
        self._steps = torch.where(mask, 0, self._steps)
        self._over, self._truncated = self._over & ~mask, self._truncated & ~mask
        self._last_actions = torch.where(mask, -1, self._last_actions)
        self._heuristic_target = torch.where(mask, NOBODY, self._heuristic_target)
        return self._observe()

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

    def _begun(self, mask: Tensor, world: World, others: World, keys: Tensor) -> World:
        """The battles of `mask` as they begin: the enemies have their order and are on their way.

        Who is not under way looks anywhere.
        A group's order leads each of its units to the point plus its place in the group.
        """
        goal_x, goal_y = self._goals(world, keys)
        dx, dy = goal_x - world.x, goal_y - world.y
        norm = root(dx * dx + dy * dy).clamp_min(1e-6)
        pace = torch.where(norm > 1e-6, self.tables.acceleration * HEAD_START, 0.0)
        walked = torch.where(pace > 0, pace, self.tables.speed * HEAD_START).minimum(norm)
        x = world.x + whole_grains(dx / norm * walked)
        y = world.y + whole_grains(dy / norm * walked)
        looks = self._compass[rng.draw(keys, _FACING_DRAW, self.tables.index) % len(self._compass)]
        begun = replace(
            world,
            x=x,
            y=y,
            face_x=torch.where(norm > 1e-6, dx / norm, looks[..., 0]),
            face_y=torch.where(norm > 1e-6, dy / norm, looks[..., 1]),
            goal_x=goal_x,
            goal_y=goal_y,
            pace=pace,
        )
        return begun.where(mask, others)

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
        self._check(actions)
        orders = self._heuristic_orders() if self.options.heuristic_ai else actions.T
        world = self._give_orders(self._world, self._as_created(orders))
        for i in range(self.options.step_mul):
            loop = self._steps * self.options.step_mul + i
            world = self._tick(world, self.tables, self._keys, loop)
        outcome = self._settle(self._world, world, self._over, self._steps)
        self._last_actions = torch.where(self._over, self._last_actions, actions.T)
        self._world, self._steps = outcome.world, outcome.steps
        self._truncated = outcome.truncated
        self._over = outcome.decided | outcome.truncated
        return Transition(
            observation=self._observe(),
            reward=outcome.reward,
            terminated=outcome.decided,
            truncated=outcome.truncated.clone(),
            battle_won=outcome.won,
            dead_allies=outcome.dead_allies,
            dead_enemies=outcome.dead_enemies,
        )

    def _settled(self, before: World, after: World, was_over: Tensor, steps: Tensor) -> Outcome:
        """What a step of the game loop has come to; battles that were over stay as they were."""
        world = before.where(was_over, after)
        steps = torch.where(was_over, steps, steps + 1)
        code = self._ending(world.health)
        decided = code != UNDECIDED
        reward = self._reward(before.health, before.shield, world.health, world.shield, code)
        dead = world.health <= 0
        return Outcome(
            world=world,
            steps=steps,
            decided=decided,
            truncated=~decided & (steps >= self.info.episode_limit),
            won=(code == WON) & ~was_over,
            reward=torch.where(was_over, 0.0, reward),
            dead_allies=dead[: self._n].sum(0),
            dead_enemies=dead[self._n :].sum(0),
        )

    def _check(self, actions: Tensor) -> None:
        shape = (self.n_envs, self._n)
        if actions.shape != shape:
            raise ValueError(f"actions have shape {tuple(actions.shape)}, expected {shape}")
        n_actions = self.info.n_actions
        known = (actions >= 0) & (actions < n_actions)
        index = actions.clamp(0, n_actions - 1)
        available = self._available.permute(2, 0, 1).gather(2, index[:, :, None])[:, :, 0]
        if self.options.heuristic_ai:  # it plays by itself, and ignores the masks as SMAC's does
            available = torch.ones_like(available)
        wrong = ~(available & known) & ~self._over[:, None]
        if bool(wrong.any()):
            slot, agent = (int(i) for i in wrong.nonzero()[0])
            raise UnavailableActionError(
                int(self._battle_ids[slot]), agent, int(actions[slot, agent])
            )

    def _ordered(self, world: World, actions: Tensor) -> World:
        """Turn actions [n, E] into orders; an attack on the same target goes on undisturbed.

        What the game refuses, it does as if nothing had been said: an attack on somebody whom the
        weapon cannot hit, healing somebody unhurt, or no-op for a living unit (SMAC's heuristic
        for an idle medivac).
        """
        n = self._n
        alive = world.health[:n] > 0
        targeted = actions >= N_NON_ATTACK
        heals = targeted & self._heals
        moves = (actions > STOP_ACTION) & ~targeted
        # (The actions of battles that are over may be anything.)
        n_units = self.tables.n_units
        aimed_at = (torch.where(heals, 0, n) + actions - N_NON_ATTACK).clamp(0, n_units - 1)
        pair = self.tables.index[:n] * n_units + aimed_at
        well = of_target(world.health, aimed_at) >= of_target(self.tables.health, aimed_at)
        refused = (actions == NO_OP) | (heals & well)
        refused = refused | (targeted & ~heals & ~self.tables.can_hit[pair])
        obeys = alive & ~refused
        target = torch.where(targeted, aimed_at, NOBODY)
        target = torch.where(obeys, target, world.target[:n])
        interrupted = (target != world.target[:n]) & (world.windup[:n] >= 0)
        order = torch.where(
            heals, HEAL, torch.where(targeted, ATTACK, torch.where(moves, MOVE, STOP))
        )
        offset = self._offsets[(actions - 2).clamp(0, 3)]
        moves = moves & obeys
        goal_x = torch.where(moves, world.x[:n] + offset[..., 0], world.goal_x[:n])
        goal_y = torch.where(moves, world.y[:n] + offset[..., 1], world.goal_y[:n])

        def with_allies(now: Tensor, allies: Tensor) -> Tensor:
            return torch.cat((allies, now[n:]))

        return replace(
            world,
            order=with_allies(world.order, torch.where(obeys, order, world.order[:n])),
            target=with_allies(world.target, target),
            goal_x=with_allies(world.goal_x, goal_x),
            goal_y=with_allies(world.goal_y, goal_y),
            windup=with_allies(world.windup, world.windup[:n].masked_fill(interrupted, -1.0)),
            cooldown=with_allies(world.cooldown, torch.where(interrupted, 0.0, world.cooldown[:n])),
        )

    def _as_created(self, actions: Tensor) -> Tensor:
        """Actions [n, E] with the enemies numbered as they were created, as orders take them."""
        if self._enemy_index is None:
            return actions
        shown = (actions - N_NON_ATTACK).clamp(0, self.info.n_enemies - 1)
        attack = self._enemy_index.gather(0, shown) + N_NON_ATTACK
        attacks = actions >= N_NON_ATTACK
        if self.features.heals is not None:  # a healer's actions number agents
            attacks = attacks & ~self.features.heals
        return torch.where(attacks, attack, actions)

    def _heuristic_orders(self) -> Tensor:
        """SMAC's `heuristic_ai` as actions [n, E], whatever the masks say."""
        units = self.features.units(self._world, self._enemy_index)
        orders, self._heuristic_target = self._scripted.orders(
            units, self._heuristic_target, self._available
        )
        return orders

    # ----------------------------------------------------------------- viewing

    @property
    def world(self) -> World:
        """The units of all battles as they are now; allies by agent id, then enemies."""
        return self._world

    def _observe(self) -> Observation:
        shown = self._show(self._world, self._last_actions, self._steps, self._enemy_index)
        self._available = shown.available
        return shown.by_battle()

    def _enemies_in_order(self, world: World) -> Tensor | None:
        """[k, E] the enemy, by order of creation, that SMAC would list as each; None if it is the
        same one in all battles."""
        enemies, n = self.scenario.enemy_units, self._n
        order = self.options.enemy_order
        return enemy_indices(order, enemies, world.x[n:], world.y[n:], self._keys)

    def _no_actions(self) -> Tensor:
        return torch.full((self._n, self.n_envs), -1, dtype=torch.int64, device=self.device)

    # -------------------------------------------------------------- checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The world and the counters, as tensors and plain values."""
        world = {f.name: getattr(self._world, f.name).clone() for f in fields(World)}
        return {"world": world, "next_battle": self._next_battle, **self._slots()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of an environment of the same map, size and options."""
        self._world = World(**{k: v.to(self.device) for k, v in state["world"].items()})
        self._next_battle = int(state["next_battle"])
        for name in self._slots():
            setattr(self, f"_{name}", state[name].to(self.device))
        self._observe()

    def _slots(self) -> dict[str, Tensor]:
        names: tuple[str, ...] = (
            "battle_ids",
            "keys",
            "steps",
            "over",
            "truncated",
            "last_actions",
            "heuristic_target",
        )
        if self._enemy_index is not None:
            names += ("enemy_index",)
        return {name: getattr(self, f"_{name}").clone() for name in names}
