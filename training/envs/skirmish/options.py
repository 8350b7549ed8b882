"""SMAC's own environment options, under SMAC's names and with its defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args

EnemyHealers = Literal["follow", "scan_move", "stay"]
UnitData = Literal["liberty", "void_multi"]
EnemyOrder = Literal["creation", "shuffled", "sorted"]
# Of the game itself and its window: `StarCraft2Env` takes them, a simulated battle has neither.
OF_THE_GAME = frozenset(
    {"difficulty", "game_version", "replay_dir", "replay_prefix", "debug"}
    | {"window_size_x", "window_size_y"}
)


class OptionError(ValueError):
    """An unknown option, a value out of bounds, or one that SMAC itself gets wrong."""


@dataclass(frozen=True)
class SkirmishOptions:
    """What SMAC's `StarCraft2Env` lets its users choose, as far as Skirmish knows it."""

    step_mul: int = 8
    """Game loops in one step."""
    move_amount: float = 2.0
    """Distance of a move order's point."""
    continuing_episode: bool = False
    """Whether a time-out is no ending for the learner."""
    obs_all_health: bool = True
    """Observe the health and shields of all visible units; implies obs_own_health."""
    obs_own_health: bool = True
    obs_last_action: bool = False
    """Observe the last actions of visible allies."""
    obs_pathing_grid: bool = False
    """Observe whether 8 cells around can be walked on."""
    obs_terrain_height: bool = False
    """Observe the heights of 8 cells around and of one's own."""
    obs_instead_of_state: bool = False
    """The state is all agents' observations, one after another."""
    obs_timestep_number: bool = False
    """Refused: SMAC's vectors are then one longer than it says they are."""
    state_last_action: bool = True
    state_timestep_number: bool = False
    reward_sparse: bool = False
    """+1 for a win, -1 for a defeat, 0 otherwise (still scaled, as in SMAC)."""
    reward_only_positive: bool = True
    reward_death_value: float = 10.0
    reward_win: float = 200.0
    reward_defeat: float = 0.0
    reward_negative_scale: float = 0.5
    reward_scale: bool = True
    reward_scale_rate: float = 20.0
    heuristic_ai: bool = False
    """SMAC's scripted policy plays instead of the caller, whose actions count only as last
    actions: each agent attacks the nearest living enemy, wherever it is, until it dies."""
    heuristic_rest: bool = False
    """With heuristic_ai: an agent whose attack is not available steps toward its target."""

    enemy_order: EnemyOrder = "creation"
    """Which enemy is enemy 0, 1, ..., which SMAC leaves to the game: as the map creates them,
    shuffled in every battle, or sorted by unit type, x and y at the beginning, as SMAC sorts the
    agents."""
    unit_data: UnitData = "liberty"
    """Whose numbers units have. SMAC's maps name Wings of Liberty's data alone; replays of its
    battles say that the game had Void's multiplayer data loaded on top ("void_multi")."""
    enemy_healers: EnemyHealers = "scan_move"
    """What an enemy medivac makes of the order to attack: it moves to the order's point by itself
    (as in replays of the real game), keeps to its army, or stays; healing whom it finds hurt."""

    def __post_init__(self) -> None:
        for name, known in (
            ("enemy_order", EnemyOrder),
            ("unit_data", UnitData),
            ("enemy_healers", EnemyHealers),
        ):
            words, word = get_args(known), getattr(self, name)
            if word not in words:
                raise OptionError(f"{name} must be one of {', '.join(words)}, not {word!r}")
        if self.step_mul < 1:
            raise OptionError(f"step_mul must be at least 1, not {self.step_mul}")
        if self.move_amount <= 0:
            raise OptionError(f"move_amount must be positive, not {self.move_amount}")
        if self.reward_scale and self.reward_scale_rate <= 0:
            raise OptionError(f"reward_scale_rate must be positive, not {self.reward_scale_rate}")
        around = self.obs_pathing_grid or self.obs_terrain_height
        if around and self.move_amount != int(self.move_amount):
            raise OptionError(
                "obs_pathing_grid and obs_terrain_height look whole cells away: move_amount must "
                f"be a whole number, not {self.move_amount}"
            )
        if self.obs_timestep_number:
            raise OptionError(
                "obs_timestep_number is not supported: with it SMAC's observations are one value "
                "longer than SMAC says they are; use state_timestep_number"
            )


def parse_options(env_args: dict[str, Any]) -> SkirmishOptions:
    """Options from SMAC's keyword arguments.

    Raises:
        OptionError: naming an unknown key and the nearest known one, or a bad value.
    """
    known = {f.name: type(f.default) for f in fields(SkirmishOptions)}
    for key, value in env_args.items():
        if key in OF_THE_GAME:
            raise OptionError(f"{key} is an option of the real game and means nothing here")
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            raise OptionError(f"unknown environment option {key!r}{hint}")
        kind = known[key]
        fits = isinstance(value, kind) or (kind is float and type(value) is int)
        if not fits or (kind is not bool and isinstance(value, bool)):
            raise OptionError(f"{key} must be a {kind.__name__}, not {value!r}")
    return SkirmishOptions(**env_args)
