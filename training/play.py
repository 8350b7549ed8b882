"""`python -m training.play`: battles whose units are programs of their own, in nobody's step."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from serving.client import ServingClientError, get_model
from serving.client.credentials import HELP, VARIABLES, Credentials
from training.config import EnvArg
from training.envs import make_env
from training.envs.base import BatchedEnv
from training.evaluate import Evaluation, summarise, table
from training.isolation import Isolation, IsolationError, isolated
from training.own_server import ServerError, own_server, server_command
from training.policies import PolicyError, require_fit
from training.rollout import play_battles
from training.squad import GAME_STEP_SECONDS, Service, Squad, SquadError, unit_command


@dataclass(frozen=True)
class Command:
    """Let every unit of a team be a program of its own, with its own connection to the service.

    A unit is shown its own observation, and answers with its action. One that is late stands still
    for that step; one that dies stands still until it has been started again, and goes on with its
    memory. Without --server each unit runs --model in its own process; with --isolate the service
    runs --model, and each unit is in a network namespace that reaches the service alone.

    Examples:
      python -m training.play --map 3s5z --server grpc://127.0.0.1:50051/3s5z
      python -m training.play --map 3s5z --model models/3s5z/1
      python -m training.play --map 3s5z --model models/3s5z/1 --isolate
    """

    server: str | None = None
    """The policy's address: grpc(s)://HOST:PORT/MODEL or http(s)://HOST:PORT/MODEL."""
    model: Path | None = None
    """An exported model, models/NAME/VERSION."""
    isolate: bool = False
    """Units and service in network namespaces of their own (as root, with iproute2)."""
    map_name: Annotated[str, tyro.conf.arg(name="map")] = "3s5z"
    episodes: int = 20
    seed: int = 777
    """Of the battles; they are those of training.evaluate with the same seed."""
    env: str = "skirmish"
    env_args: dict[str, EnvArg] = field(default_factory=dict)
    """The environment's own options, as NAME VALUE pairs."""
    memory: Literal["held", "carried"] = "held"
    """The service keeps each unit's hidden state, or the unit carries it."""
    deadline_ms: float = 1000 * GAME_STEP_SECONDS
    """How long the game waits for a unit: by default as long as a step takes in the game as people
    play it (8 loops of 22.4 a second)."""
    json: bool = False
    """Print one JSON object instead of tables."""


@dataclass(frozen=True)
class Outcome:
    """What the battles showed, and how each unit was served."""

    evaluation: Evaluation
    units: list[dict[str, Any]]


def run(command: Command, launched: Callable[[Squad], None] = lambda squad: None) -> Outcome:
    """
    Args:
        launched: told of the units once they are ready.

    Raises:
        PolicyError, ValueError, SquadError, IsolationError, ServerError, ServingClientError
    """
    if command.episodes < 1:
        raise ValueError(f"--episodes must be at least 1, not {command.episodes}")
    env_args: dict[str, Any] = dict(command.env_args)
    env = make_env(command.env, command.map_name, 1, command.seed, **env_args)
    with contextlib.ExitStack() as stack:
        launch, policy = _policy(command, env, stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unmix-units-")))
        n_agents, deadline_s = env.info.n_agents, command.deadline_ms / 1000
        squad = stack.enter_context(Squad(launch, n_agents, folder, deadline_s))
        squad.wait_until_ready()
        launched(squad)
        started = time.perf_counter()
        battles = play_battles(env, squad, range(command.episodes))
        seconds = time.perf_counter() - started
    evaluation = summarise(battles, seconds, policy, command.map_name, command.seed)
    return Outcome(evaluation, [_served(i, unit) for i, unit in enumerate(squad.services)])


Launch = Callable[[int], Sequence[str]]


def _policy(command: Command, env: BatchedEnv, stack: contextlib.ExitStack) -> tuple[Launch, str]:
    """How to start a unit, and what the policy is called."""
    asks = ["--memory", command.memory, "--timeout", str(command.deadline_ms / 1000)]
    if command.server is not None:
        if command.model is not None or command.isolate:
            raise PolicyError("--server is a service that runs already: leave out the others")
        served = get_model(command.server, credentials=Credentials.from_environment())
        require_fit(command.server, env.info, served.layout_sha256, served.map)
        server = ["--server", command.server, *asks]
        return lambda agent: unit_command(agent, *server), command.server
    if command.model is None:
        raise PolicyError("name a policy with --server, or with --model")
    folder = command.model
    manifest = _manifest(folder)
    layout, made_for = manifest["environment"]["layout_sha256"], manifest["map"]
    require_fit(str(folder), env.info, layout, made_for)
    if not command.isolate:
        return lambda agent: unit_command(agent, "--model", str(folder)), str(folder)
    spaces = stack.enter_context(isolated(env.info.n_agents))
    port = stack.enter_context(_isolated_service(spaces, folder))

    def launch(agent: int) -> Sequence[str]:
        address = f"grpc://{spaces.service_host(agent)}:{port}/{manifest['name']}"
        unit = unit_command(agent, "--server", address, *asks)
        # The service is our own, and nobody's key belongs there.
        return spaces.unit_command(agent, ["env", *(f"--unset={it}" for it in VARIABLES), *unit])

    return launch, f"{folder}, isolated"


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise PolicyError(f"{folder} is no exported model: {path}: {error.strerror}") from None
    return manifest


@contextlib.contextmanager
def _isolated_service(spaces: Isolation, folder: Path) -> Iterator[int]:
    """Serve this one model at the end of every unit's wire; yields the gRPC port."""
    with tempfile.TemporaryDirectory(prefix="unmix-model-") as models:
        name, version = folder.resolve().parts[-2:]
        (Path(models) / name).mkdir()
        (Path(models) / name / version).symlink_to(folder.resolve())
        # Nobody but the units can reach it, so it needs no credentials.
        command = server_command(Path(models), "--host", "0.0.0.0", "--insecure")
        with own_server(spaces.service_command(command)) as address:
            yield int(address.rpartition(":")[2])


def _served(agent: int, service: Service) -> dict[str, Any]:
    ms = sorted(1000 * seconds for seconds in service.seconds)
    centiles = statistics.quantiles(ms, n=100, method="inclusive") if len(ms) > 1 else ms * 99
    return {
        "agent": agent,
        "steps": service.steps,
        "missed": service.missed,
        "restarts": service.restarts,
        "p50_ms": round(centiles[49], 2) if ms else None,
        "p99_ms": round(centiles[98], 2) if ms else None,
        "max_ms": round(ms[-1], 2) if ms else None,
    }


def units_table(outcome: Outcome, deadline_ms: float) -> Table:
    shown = Table(title=f"from observation to action, of {deadline_ms:.0f} ms")
    names = ("agent", "steps", "missed", "restarts", "p50_ms", "p99_ms", "max_ms")
    for name in names:
        shown.add_column(name.replace("_", " "), justify="right")
    for unit in outcome.units:
        cells = ("-" if unit[name] is None else unit[name] for name in names)
        shown.add_row(*map(str, cells))
    return shown


def main() -> None:
    command = tyro.cli(
        Command, prog="python -m training.play", description=f"{Command.__doc__}\n{HELP}"
    )
    try:
        outcome = run(command)
    except (
        PolicyError, ValueError, SquadError, IsolationError, ServerError, ServingClientError,
    ) as error:  # fmt: skip
        sys.exit(f"training.play: {error}")
    if command.json:
        print(json.dumps(dataclasses.asdict(outcome)))
    else:
        print(table(outcome.evaluation))
        Console().print(units_table(outcome, command.deadline_ms))


if __name__ == "__main__":
    main()
