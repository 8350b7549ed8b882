"""Skirmish: SMAC's battles in an embedded simulator, batched over E on one torch device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.envs.base import UnavailableActionError
from training.envs.skirmish import rng
from training.envs.skirmish.features import MOVES, N_NON_ATTACK, NO_OP, STOP_ACTION, Features
from training.envs.skirmish.loop import tick
from training.envs.skirmish.movement import TURN_COSINE, on_ground, push_apart
from training.envs.skirmish.options import SkirmishOptions, parse_options
from training.envs.skirmish.reward import UNDECIDED, WON, Reward, battle_code, max_reward
from training.envs.skirmish.scenario import Scenario, load_scenario
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
    spawn_positions,
)
from training.types import EnvInfo, Observation, Transition

TURN_TWICE_COSINE = 2 * TURN_COSINE**2 - 1
HEAD_START = 2  # game loops the enemies have walked before the first observation
_GOAL_DRAW, _FACING_DRAW = 1 << 20, (1 << 20) + 1  # counters that no game loop reaches


class SkirmishEnv:
    """E battles on one map; see `training.envs.base.BatchedEnv` for the protocol.

    Args:
        map_name: one of `scenario.map_names()`, or a `Scenario`.
        n_envs: E.
        seed: with a battle's number, fixes all random draws of that battle.
        device: where the tensors live.
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
        **env_args: Any,
    ) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, not {n_envs}")
        scenario = load_scenario(map_name) if isinstance(map_name, str) else map_name
        self.options: SkirmishOptions = parse_options(env_args)
        self.n_envs, self.seed, self.device = n_envs, seed, torch.device(device)
        self.scenario = scenario
        allies = sorted(scenario.ally_units, key=lambda u: scenario.ally_types.index(u.name))
        units = allies + scenario.enemy_units
        self.tables = build_tables(scenario, units, self.device, self.options.enemy_healers)
        self.features = Features(scenario, self.options, self.tables, self.device)
        self._n = len(allies)
        self._heals = torch.tensor([[u.heal is not None] for u in allies], device=self.device)
        self._offsets = torch.tensor(MOVES, device=self.device) * self.options.move_amount
        self._reward = Reward(self.options, self._n, max_reward(scenario, self.options))
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
        angles = np.arange(256) * (2 * np.pi / 256)
        self._compass = torch.tensor(
            np.stack((np.cos(angles), np.sin(angles)), 1), dtype=torch.float32, device=self.device
        )
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
        self._available = self.features.available(self._world)
        self.reset()
        self._next_battle = 0

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
        self._world = self._march_off(self._spawn).where(mask, self._world)
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
        x, y = places[:, :1].expand(shape).clone(), places[:, 1:].expand(shape).clone()
        return World(
            x=on_grain(x),
            y=on_grain(y),
            face_x=zeros + 1,
            face_y=zeros,
            health=tables.health.expand(shape).clone(),
            shield=tables.shield.expand(shape).clone(),
            shield_wait=zeros,
            energy=tables.energy_at_start.expand(shape).clone(),
            cooldown=zeros,
            windup=zeros - 1,
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

    def _march_off(self, world: World) -> World:
        """Units look anywhere; the enemies have their order and are already on their way.

        A group's order leads each of its units to the point plus its place in the group.
        """
        goal_x, goal_y = self._goals(world)
        unit = self.tables.index
        dx, dy = goal_x - world.x, goal_y - world.y
        norm = torch.sqrt(dx * dx + dy * dy)
        marches = (world.order == ATTACK_MOVE) & (norm > 0)
        norm = norm.clamp_min(1e-6)
        dx, dy = dx / norm, dy / norm
        facing = self._compass[rng.draw(self._keys, _FACING_DRAW, unit) % len(self._compass)]
        # An enemy first turns its way, one loop for each 62.5 degrees it looks past it.
        looks = facing[..., 0] * dx + facing[..., 1] * dy
        turns = (looks < TURN_COSINE).float() + (looks < TURN_TWICE_COSINE).float()
        loops = torch.where(marches, HEAD_START - turns, 0.0)
        pace = self.tables.acceleration * loops
        gained = pace * (loops + 1) / 2  # in so many loops, by who accelerates
        walked = torch.where(pace > 0, gained, self.tables.speed * loops)
        x, y = world.x + on_grain(dx * walked), world.y + on_grain(dy * walked)
        x, y = push_apart(world, self.tables, marches, x, y)
        return replace(
            world,
            goal_x=goal_x,
            goal_y=goal_y,
            face_x=torch.where(marches, dx, facing[..., 0]),
            face_y=torch.where(marches, dy, facing[..., 1]),
            x=x,
            y=y,
            pace=pace,
        )

    def _goals(self, world: World) -> tuple[Tensor, Tensor]:
        """Where everybody is ordered to; those without a point: where they are."""
        ends = self.scenario.attack_move
        if not ends:
            return world.goal_x, world.goal_y
        (x0, y0), (x1, y1) = ends[0], ends[-1]
        along = rng.unit_interval(rng.draw(self._keys, _GOAL_DRAW) >> 8, 24)
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
        before, was_over = self._world, self._over
        orders = actions.T
        if self.options.heuristic_ai:
            orders = self._heuristic_orders()
        world = self._advance(self._give_orders(before, orders))
        world = before.where(was_over, world)

        steps = torch.where(was_over, self._steps, self._steps + 1)
        code = battle_code(world.health, self._n)
        decided = code != UNDECIDED
        self._truncated = ~decided & (steps >= self.info.episode_limit)
        reward = self._reward(before.health, before.shield, world.health, world.shield, code)
        last_actions = torch.where(was_over, self._last_actions, actions.T)
        self._world, self._steps, self._last_actions = world, steps, last_actions
        self._over = decided | self._truncated
        dead = world.health <= 0
        return Transition(
            observation=self._observe(),
            reward=torch.where(was_over, 0.0, reward),
            terminated=decided,
            truncated=self._truncated.clone(),
            battle_won=(code == WON) & ~was_over,
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

    def _give_orders(self, world: World, actions: Tensor) -> World:
        """Turn actions [n, E] into orders; an attack on the same target goes on undisturbed.

        What the game refuses, it does as if nothing had been said: an attack on somebody whom the
        weapon cannot hit, or no-op for a living unit (SMAC's heuristic for an idle medivac).
        """
        n = self._n
        alive = world.health[:n] > 0
        targeted = actions >= N_NON_ATTACK
        heals = targeted & self._heals
        moves = (actions > STOP_ACTION) & ~targeted
        aimed_at = torch.where(heals, 0, n) + actions - N_NON_ATTACK
        pair = self.tables.index[:n] * self.tables.n_units + aimed_at.clamp_min(0)
        refused = (actions == NO_OP) | (targeted & ~heals & ~self.tables.can_hit[pair])
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

    def _advance(self, world: World) -> World:
        """Play `step_mul` game loops."""
        for i in range(self.options.step_mul):
            world = tick(world, self.tables, self._keys, self._steps * self.options.step_mul + i)
        return world

    def _heuristic_orders(self) -> Tensor:
        """SMAC's `heuristic_ai` (spec §5.5) as actions [n, E], whatever the masks say."""
        n, world = self._n, self._world
        x, y, alive = world.x.double(), world.y.double(), world.health > 0
        dx, dy = x[None, n:] - x[:n, None], y[None, n:] - y[:n, None]
        distance = torch.where(alive[None, n:], torch.sqrt(dx * dx + dy * dy), torch.inf)
        kept = self._heuristic_target.clamp_min(0)
        keeps = (self._heuristic_target >= 0) & alive[n:].gather(0, kept)
        target = torch.where(keeps, kept, distance.argmin(1))
        self._heuristic_target = target
        attack = target + N_NON_ATTACK
        if not self.options.heuristic_rest:
            return attack
        tdx, tdy = dx.gather(1, target[:, None])[:, 0], dy.gather(1, target[:, None])[:, 0]
        along_x = torch.where(tdx > 0, 4, 5)
        along_y = torch.where(tdy > 0, 2, 3)
        walk = torch.where(tdx.abs() > tdy.abs(), along_x, along_y)
        can_attack = self._available.gather(1, attack[:, None])[:, 0]
        return torch.where(can_attack, attack, walk)

    # ----------------------------------------------------------------- viewing

    @property
    def world(self) -> World:
        """The units of all battles as they are now; allies by agent id, then enemies."""
        return self._world

    def _observe(self) -> Observation:
        world = self._world
        self._available = self.features.available(world)
        return Observation(
            obs=self.features.observe(world, self._available, self._last_actions),
            state=self.features.state(world, self._last_actions, self._steps),
            avail_actions=self._available.permute(2, 0, 1).contiguous(),
        )

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
        self._available = self.features.available(self._world)

    def _slots(self) -> dict[str, Tensor]:
        names = (
            "battle_ids",
            "keys",
            "steps",
            "over",
            "truncated",
            "last_actions",
            "heuristic_target",
        )
        return {name: getattr(self, f"_{name}").clone() for name in names}
