"""A made-up battle with every type on both sides, healing and deaths: all there is to draw."""

from __future__ import annotations

import math

from training.envs.skirmish.frames import Battle, Frame, Header, Unit
from training.envs.skirmish.scenario import UnitType, load_scenario

MAPS = ("MMM", "1c3s5z", "bane_vs_bane", "6h_vs_8z", "2s_vs_1sc")
N_STEPS = 24


def kinds() -> list[Unit]:
    """Every type that SMAC's maps know, as allies."""
    units = {u.name: u for name in MAPS for u in _units(name)}
    return [
        Unit(
            type=u.name,
            side="ally",
            race=u.race,
            radius=u.radius,
            health_max=u.health,
            shield_max=u.shield,
            flies=u.planes == {"air"},
            heals=u.heal is not None,
            burst=u.weapon.burst_radius if u.weapon is not None else 0.0,
        )
        for u in units.values()
    ]


def _units(name: str) -> list[UnitType]:
    scenario = load_scenario(name)
    return scenario.ally_units + scenario.enemy_units


def showcase(policy: str = "made up") -> Battle:
    """Two rows of all types that approach, shoot and fall one by one; some Q values."""
    allies = kinds()
    enemies = [Unit(**{**vars(unit), "side": "enemy"}) for unit in allies]
    n = len(allies)
    terrain = load_scenario("2c_vs_64zg").terrain
    header = Header(
        map="showcase",
        seed=1,
        battle=0,
        policy=policy,
        q_note="",
        n_agents=n,
        step_limit=N_STEPS,
        size=32,
        sight=9.0,
        shoot=6.0,
        actions=["no_op", "stop", "north", "south", "east", "west"]
        + [f"attack_{i}" for i in range(n)],
        units=allies + enemies,
        pathable=["".join(".#"[not cell] for cell in row) for row in terrain.pathable.T],
        level=terrain.level.T.tolist(),
    )
    return Battle(header, [_frame(header, t) for t in range(N_STEPS + 1)])


def _frame(header: Header, t: int) -> Frame:
    n, n_actions = header.n_agents, len(header.actions)
    units = header.units
    left = [max(0.0, 1 - 0.03 * t - 0.004 * t * (i % 7)) for i in range(2 * n)]
    left = [0.0 if t >= 10 + 2 * i and i >= n - 3 else part for i, part in enumerate(left)]
    alive = [part > 0 for part in left]
    end = t == N_STEPS
    return Frame(
        t=t,
        r=0.5 if t else 0.0,
        sum=0.5 * t,
        end="lost" if end else "",
        x=[6 + 2.2 * (i % n) + 0.3 * math.sin(t / 3 + i) for i in range(2 * n)],
        y=[round((10 + 0.08 * t) if i < n else (17 - 0.08 * t), 4) for i in range(2 * n)],
        face=[90 if i < n else 270 for i in range(2 * n)],
        hp=[round(unit.health_max * part, 4) for unit, part in zip(units, left, strict=True)],
        sh=[round(unit.shield_max * part**2, 4) for unit, part in zip(units, left, strict=True)],
        en=[50.0 if unit.heals else 0.0 for unit in units],
        tg=[_target(header, i) if alive[i] and t else -1 for i in range(2 * n)],
        fire=[int(alive[i] and t > 0 and (t + i) % 3 == 0) for i in range(2 * n)],
        a=None if end else [6 + i if alive[i] else 0 for i in range(n)],
        av=["01" + "1" * (n_actions - 2) if alive[i] else "1" + "0" * (n_actions - 1)
            for i in range(n)],
        q=None if end else [[round(math.sin(i + k + t / 5), 4) for k in range(n_actions)]
                            for i in range(n)],
    )  # fmt: skip


def _target(header: Header, i: int) -> int:
    """The one opposite; a healer's is its neighbour."""
    n = header.n_agents
    if header.units[i].heals:
        return i - 1
    return (i + n) % (2 * n)
