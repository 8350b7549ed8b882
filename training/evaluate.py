"""`python -m training.evaluate`: let a policy play battles greedily and report how it fares."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from serving.client import ServingClientError
from serving.client.credentials import HELP
from training.checkpoint import CheckpointError
from training.config import EnvArg
from training.envs import GAMES, GameError, at_once, make_env
from training.metrics import wilson_interval
from training.policies import PolicyError, open_policy
from training.rollout import play_battles
from training.types import BattleRecord


@dataclass(frozen=True)
class Command:
    """Play battles with a policy and report its win rate, with its 95 % interval.

    Battle b of seed s is the same battle whatever plays it and however many run beside it.

    Example: python -m training.evaluate --map 3s5z --policy models/3s5z/1 --episodes 1000
    """

    policy: str
    """A run (folder or name), the folder of an exported model's version (models/3s5z/1), a served
    model (grpc(s)://HOST:PORT/NAME or http(s)://HOST:PORT/NAME, one connection per unit), heuristic
    (SMAC's own), closest (the QMIX paper's, legal actions only) or random."""
    map_name: Annotated[str, tyro.conf.arg(name="map")] = "3s5z"
    episodes: int = 100
    seed: int = 12345
    """Of the battles; training uses its own seed, so any other one is unseen."""
    parallel: int = 0
    """Battles side by side; 0 chooses: 128, or 16 for a served policy, or 8 games of smac. It
    changes no result."""
    env: str = "skirmish"
    """skirmish, smac (StarCraft II itself, docs/environments.md) or two_step."""
    env_args: dict[str, EnvArg] = field(default_factory=dict)
    """The environment's own options, as NAME VALUE pairs."""
    memory: Literal["held", "carried"] = "held"
    """Served policies: the service keeps each unit's hidden state, or the unit carries it."""
    device: str = "cpu"
    compile: bool = False
    """Compile the simulator: half a minute at the first start, seconds later, and the same battles;
    it pays from some ten thousand battles on."""
    runs_dir: Path = Path("runs")
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class Evaluation:
    """What N battles showed."""

    policy: str
    map: str
    seed: int
    episodes: int
    win_rate: float
    win_rate_ci95: tuple[float, float]
    return_mean: float
    return_std: float
    ep_length_mean: float
    dead_allies_mean: float
    dead_enemies_mean: float
    steps_per_second: float
    actions_sha256: str
    """Over all actions in battle order: equal for two ways of playing the same battles."""
    game_version: str = ""
    """Of the game's program, where one was played."""
    game_restarts: int = 0
    """Games that had broken off; their battles were played again."""


def summarise(
    battles: Sequence[BattleRecord], seconds: float, policy: str, map_name: str, seed: int
) -> Evaluation:
    wins = sum(battle.battle_won for battle in battles)
    returns = [battle.episode_return for battle in battles]
    digest = hashlib.sha256()
    for battle in battles:
        digest.update(battle.actions.tobytes())
    return Evaluation(
        policy=policy,
        map=map_name,
        seed=seed,
        episodes=len(battles),
        win_rate=wins / len(battles),
        win_rate_ci95=wilson_interval(wins, len(battles)),
        return_mean=statistics.fmean(returns),
        return_std=statistics.pstdev(returns),
        ep_length_mean=statistics.fmean(battle.length for battle in battles),
        dead_allies_mean=statistics.fmean(battle.dead_allies for battle in battles),
        dead_enemies_mean=statistics.fmean(battle.dead_enemies for battle in battles),
        steps_per_second=sum(battle.length for battle in battles) / seconds,
        actions_sha256=digest.hexdigest(),
    )


def run(command: Command) -> Evaluation:
    """Raises: PolicyError, ValueError, GameError, CheckpointError, ServingClientError."""
    if command.episodes < 1:
        raise ValueError(f"--episodes must be at least 1, not {command.episodes}")
    env_args: dict[str, Any] = dict(command.env_args)
    if command.policy == "heuristic":
        if command.env not in ("skirmish", "smac"):
            raise PolicyError("heuristic plays inside skirmish and smac only")
        env_args["heuristic_ai"] = True
    served = "://" in command.policy
    usual = at_once(command.env, 16 if served else 128)
    parallel = min(command.parallel or usual, command.episodes)
    env = make_env(
        command.env,
        command.map_name,
        parallel,
        command.seed,
        command.device,
        command.compile,
        **env_args,
    )
    with open_policy(command.policy, env, command.seed, command.memory, command.runs_dir) as policy:
        started = time.perf_counter()
        battles = play_battles(env, policy, range(command.episodes))
        seconds = time.perf_counter() - started
    result = summarise(battles, seconds, command.policy, command.map_name, command.seed)
    if command.env not in GAMES:
        return result
    return dataclasses.replace(
        result,
        game_version=env.info.game_version,
        game_restarts=getattr(env, "restarts", 0),
    )


def table(result: Evaluation) -> str:
    low, high = result.win_rate_ci95
    return "\n".join(
        (
            f"{result.policy} on {result.map}, {result.episodes} battles of seed {result.seed}",
            f"  win rate     {result.win_rate:8.1%}   (95 % interval {low:.1%} to {high:.1%})",
            f"  return       {result.return_mean:8.2f}   (sd {result.return_std:.2f})",
            f"  length       {result.ep_length_mean:8.1f} steps",
            f"  dead         {result.dead_allies_mean:8.2f} allies, "
            f"{result.dead_enemies_mean:.2f} enemies",
            f"  speed        {result.steps_per_second:8.0f} steps/s",
            f"  actions      {result.actions_sha256[:16]}",
            *([f"  game         {result.game_version}"] if result.game_version else []),
            *([f"  broken off   {result.game_restarts:8}"] if result.game_restarts else []),
        )
    )


def main() -> None:
    command = tyro.cli(
        Command, prog="python -m training.evaluate", description=f"{Command.__doc__}\n{HELP}"
    )
    try:
        result = run(command)
    except (PolicyError, ValueError, GameError, CheckpointError, ServingClientError) as error:
        sys.exit(f"training.evaluate: {error}")
    print(json.dumps(dataclasses.asdict(result)) if command.json else table(result))


if __name__ == "__main__":
    main()
