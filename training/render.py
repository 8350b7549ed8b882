"""`python -m training.render`: play one battle and show it."""

from __future__ import annotations

import inspect
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

from serving.client import ServingClientError
from training.animation import AnimationError, require_ffmpeg, to_gif, to_mp4
from training.checkpoint import CheckpointError
from training.config import EnvArg
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.frames import (
    FORMAT,
    Battle,
    Recorder,
    describe,
    read_battle,
    to_lines,
)
from training.graph_policy import GraphPolicy
from training.policies import SCRIPTED, open_policy
from training.replay_page import to_page
from training.rollout import AgentPolicy, Policy

Say = Callable[[str], None]


class RenderError(ValueError):
    """What was asked for cannot be shown; the message says why."""


@dataclass(frozen=True)
class Command:
    """Play one battle and show it: as an animated picture, as a page, and as data.

    FILE.gif is a picture that moves (FILE.mp4 likewise, if ffmpeg is installed). FILE.html is one
    file that any browser opens without a network: play and pause, drag, step with the arrow keys,
    follow any agent; FILE.html#step=12&agent=0 opens at that place. FILE.jsonl holds the frames.

    Example: python -m training.render --map 3s5z --policy models/3s5z/1 --seed 7 --agent 0

    Example: python -m training.render --frames renders/3s5z-random-7.jsonl --output talk.gif
    """

    policy: str = ""
    """What plays: a run (folder or name), the folder of an exported model's version
    (models/3s5z/1), a served model (grpc://HOST:PORT/NAME or http://HOST:PORT/NAME), heuristic,
    closest or random. Runs and exported models show the Q values behind each choice."""
    map_name: Annotated[str, tyro.conf.arg(name="map")] = "3s5z"
    seed: int = 12345
    """Of the battles, as in training.evaluate: battle b of seed s is the same battle there."""
    battle: int = 0
    """Which of the seed's battles."""
    agent: int | None = None
    """Follow this agent: its actions, Q values, sight and shoot range. In a page any agent can be
    chosen later."""
    output: tuple[Path, ...] = ()
    """Files to write, each by its suffix: .gif, .mp4, .html, .jsonl. By default a GIF, a page and
    the frames, as renders/MAP-POLICY-SEED.*"""
    frames: Path | None = None
    """Show the battle in this .jsonl file instead of playing one."""
    env_args: dict[str, EnvArg] = field(default_factory=dict)
    """The environment's own options, as NAME VALUE pairs."""
    memory: Literal["held", "carried"] = "held"
    """Served policies: the service keeps each unit's hidden state, or the unit carries it."""
    runs_dir: Path = Path("runs")


def play(env: SkirmishEnv, policy: Policy, name: str, battle_id: int, say: Say) -> Battle:
    """Play one battle in an environment of one slot, and keep its frames."""
    header = describe(env, battle_id, name, _why_no_q_values(policy, name))
    recorder = Recorder(env, header, plays_itself=env.options.heuristic_ai)
    slots, ids = torch.ones(1, dtype=torch.bool), torch.tensor([battle_id])
    policy.begin(slots, ids)
    observation, transition, over = env.reset(slots, ids), None, False
    while not over:
        actions = policy.act(observation)
        q_values = policy.q_values if isinstance(policy, AgentPolicy | GraphPolicy) else None
        frame = recorder.take(observation, transition, actions, q_values)
        say(f"step {frame.t} of at most {header.step_limit}, return {frame.sum:.2f}")
        transition = env.step(actions)
        observation = transition.observation
        over = bool(transition.terminated[0] | transition.truncated[0])
    recorder.take(observation, transition, None, None)
    return Battle(header, recorder.frames)


def _why_no_q_values(policy: Policy, name: str) -> str:
    if isinstance(policy, AgentPolicy | GraphPolicy):
        return ""
    if name == "heuristic":
        return "SMAC's heuristic acts inside the environment: no actions or Q values to show"
    if name in SCRIPTED:
        return f"{name} is scripted: it has no Q values"
    return "a served policy is asked for its actions alone: no Q values to show"


def run(command: Command, say: Say) -> tuple[Battle, list[Path]]:
    """The battle, and the files that show it.

    Raises: RenderError, PolicyError, FramesError, AnimationError, ValueError, CheckpointError,
        ServingClientError.
    """
    paths = list(command.output) or _default_paths(command)
    for path in paths:  # before a battle is played for nothing
        _check_output(path)
    if command.frames is not None:
        battle = read_battle(command.frames)
        _check_agent(command.agent, battle.header.n_agents, battle.header.map)
    else:
        battle = _play(command, say)
    for path in paths:
        write(path, _content(path, battle, command.agent, say))
    return battle, paths


def _play(command: Command, say: Say) -> Battle:
    if not command.policy:
        raise RenderError("--policy is missing: what is to play? (or show --frames FILE)")
    if command.battle < 0:
        raise RenderError(f"--battle must be 0 or more, not {command.battle}")
    env_args: dict[str, Any] = dict(command.env_args)
    # As in training.evaluate: SMAC's own player is a part of the environment.
    if command.policy == "heuristic":
        env_args["heuristic_ai"] = True
    env = SkirmishEnv(command.map_name, 1, command.seed, "cpu", **env_args)
    _check_agent(command.agent, env.info.n_agents, command.map_name)
    opened = open_policy(command.policy, env, command.seed, command.memory, command.runs_dir)
    with opened as policy:
        return play(env, policy, command.policy, command.battle, say)


def _check_agent(agent: int | None, n_agents: int, map_name: str) -> None:
    if agent is not None and not 0 <= agent < n_agents:
        raise RenderError(f"there is no agent {agent}: {map_name} has agents 0 to {n_agents - 1}")


def _default_paths(command: Command) -> list[Path]:
    if command.frames is not None:
        stem = command.frames.with_suffix("")
        return [stem.with_name(f"{stem.name}{suffix}") for suffix in (".gif", ".html")]
    policy = re.sub(r"[^A-Za-z0-9._]+", "-", command.policy).strip("-.")
    stem = Path("renders") / f"{command.map_name}-{policy}-{command.seed}"
    number = f"-{command.battle}" if command.battle else ""
    return [stem.with_name(f"{stem.name}{number}{s}") for s in (".gif", ".html", ".jsonl")]


def _check_output(path: Path) -> None:
    if path.suffix not in WRITERS:
        raise RenderError(f"{path}: a file's suffix says what it is to be: {', '.join(WRITERS)}")
    if path.suffix == ".mp4":
        require_ffmpeg()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise RenderError(f"{path}: cannot be written: {error.strerror}") from None
    if path.is_dir():
        raise RenderError(f"{path}: cannot be written: it is a folder")


def _content(path: Path, battle: Battle, agent: int | None, say: Say) -> bytes:
    say(f"drawing {path}")
    return WRITERS[path.suffix](
        battle, agent, lambda done, whole: say(f"drawing {path}: image {done} of {whole}")
    )


WRITERS: dict[str, Callable[[Battle, int | None, Callable[[int, int], None]], bytes]] = {
    ".gif": to_gif,
    ".mp4": to_mp4,
    ".html": lambda battle, agent, _: to_page(battle, agent).encode(),
    ".jsonl": lambda battle, *_: to_lines(battle).encode(),
}


def write(path: Path, content: bytes) -> None:
    """Put a file in its place whole, or leave what is there.

    Raises:
        RenderError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise RenderError(f"{path}: cannot be written: {error.strerror}") from None


def summary(battle: Battle, paths: list[Path]) -> str:
    header, last = battle.header, battle.frames[-1]
    outcome = {"time": "out of time", "draw": "nobody left"}.get(last.end, last.end)
    lines = [
        f"{header.policy} on {header.map}, battle {header.battle} of seed {header.seed}: "
        f"{outcome} after {last.t} steps, return {last.sum:.2f}"
    ]
    lines += [f"  {path}  ({path.stat().st_size / 1e6:.2f} MB)" for path in paths]
    return "\n".join(lines)


def main() -> None:
    about = f"{inspect.getdoc(Command)}\n\nThe frames, FILE.jsonl:\n\n{FORMAT}"
    command = tyro.cli(Command, prog="python -m training.render", description=about)
    console = Console(stderr=True)
    try:
        if console.is_terminal:
            with console.status("") as status:
                battle, paths = run(command, lambda text: status.update(text))
        else:
            battle, paths = run(command, lambda _: None)
    except (
        ValueError,  # RenderError, PolicyError, FramesError and the environment's own
        AnimationError,
        CheckpointError,
        ServingClientError,
    ) as error:
        sys.exit(f"training.render: {error}")
    print(summary(battle, paths))


if __name__ == "__main__":
    main()
