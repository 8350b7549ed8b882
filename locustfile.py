"""Agents that play against a step service, for locust: REST and gRPC, each with its own memory.

    locust --host http://127.0.0.1:8000 --headless --users 64 --spawn-rate 16 --run-time 60s

docs/load-testing.md says what the load is like and how to read the figures.
"""

from __future__ import annotations

import os
import random
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import gevent.queue
import grpc
import grpc.experimental.gevent
import numpy as np
from locust import FastHttpUser, User, events, task
from locust.exception import StopUser

from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc

# Without it the first gRPC call holds up every user of the process until it is answered.
grpc.experimental.gevent.init_gevent()

TIMEOUT_S = 10.0
NO_MODEL = "no model of that name is ready"


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    add = parser.add_argument
    add("--model", default="", help="Model to step; by default the first that is ready.")
    add("--grpc", default="", help="HOST:PORT of the gRPC door; by default --host's, at 50051.")
    add("--step-interval", type=float, default=0.1, help="Seconds between an agent's steps.")
    add("--ca", default="", help="PEM file of the authority that signed the service's certificate.")


class Model(NamedTuple):
    """What an agent has to know of its model."""

    name: str
    version: int
    n_agents: int
    n_actions: int
    obs_dim: int
    episode_limit: int

    def observe(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """What an agent might see: obs_dim float32 in [-1, 1], and n_actions bools, one true."""
        obs = np.array([random.uniform(-1, 1) for _ in range(self.obs_dim)], np.float32)
        available = np.array([random.random() < 0.5 for _ in range(self.n_actions)])
        available[random.randrange(self.n_actions)] = True
        return obs, available


def key() -> str:
    """Of UNMIX_KEY: not of the command line, which everybody on a machine can read."""
    return os.environ.get("UNMIX_KEY", "")


class Agent(User):
    """One unit: an episode of its model's length at a time, with the memory of that episode."""

    abstract = True
    model: Model
    steps_left = -1
    """Below zero: there is nothing to step."""

    def wait_time(self) -> float:
        return random.uniform(0.5, 1.5) * self.options.step_interval

    @property
    def options(self) -> Any:
        return self.environment.parsed_options

    def on_start(self) -> None:
        model = self.describe()
        if model is not None:
            self.model = model
            self.agent_id = random.randrange(model.n_agents)
            self.begin()

    def begin(self) -> None:
        """A new episode: nothing is remembered."""
        self.steps_left = self.model.episode_limit

    def describe(self) -> Model | None:
        """The model to step; None if locust was told why there is none."""
        raise NotImplementedError

    def act(self) -> None:
        """One step; raises nothing: locust is told of what went wrong."""
        raise NotImplementedError

    @task
    def step(self) -> None:
        if self.steps_left < 0:
            raise StopUser
        if self.steps_left == 0:
            self.begin()
        self.steps_left -= 1
        self.act()


class RestAgent(Agent, FastHttpUser):
    """`POST /agents/{id}/act`, with carried memory: `next_hidden` is sent back as `hidden`."""

    network_timeout = connection_timeout = TIMEOUT_S

    def __init__(self, environment: Any) -> None:
        authority = environment.parsed_options.ca
        self.default_headers = {"authorization": f"Bearer {key()}"} if key() else {}
        if authority:
            self.ssl_context_factory = lambda: ssl.create_default_context(cafile=authority)
        super().__init__(environment)

    def describe(self) -> Model | None:
        with self.rest("GET", "/models") as answer:
            assert answer.status_code == 200, f"status {answer.status_code}"
            for model in answer.js["models"]:
                if model["state"] == "ready" and self.options.model in ("", model["name"]):
                    dims = [model["dims"][name] for name in ("n_agents", "n_actions", "obs_dim")]
                    return Model(model["name"], model["version"], *dims, model["episode_limit"])
            raise AssertionError(NO_MODEL)
        return None

    def begin(self) -> None:
        super().begin()
        self.memory: dict[str, Any] = {}

    def act(self) -> None:
        obs, available = self.model.observe()
        body = {"model": self.model.name, "version": self.model.version, "obs": obs.tolist(),
                "avail_actions": available.tolist(), **self.memory}  # fmt: skip
        path = f"/agents/{self.agent_id}/act"
        with self.rest("POST", path, json=body, name="/agents/{id}/act") as answer:
            if answer.js and answer.status_code == 200:
                assert available[answer.js["action"]], "an action that was not open"
                # A refused step has changed nothing, and the agent goes on from what it has.
                self.memory = {
                    "hidden": answer.js["next_hidden"], "last_action": answer.js["action"]
                }  # fmt: skip


class GrpcUser(Agent):
    """A connection of its own, as every robot has."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.channel = _channel(self.options.grpc, environment.host, self.options.ca)
        self.stub = pb_grpc.AgentServiceStub(self.channel)
        self.metadata = [("authorization", f"Bearer {key()}")] if key() else []

    def on_stop(self) -> None:
        self.channel.close()

    def describe(self) -> Model | None:
        with self.reported("ListModels"):
            request = pb.ListModelsRequest()
            answer = self.stub.ListModels(request, timeout=TIMEOUT_S, metadata=self.metadata)
            for model in answer.models:
                wanted = self.options.model in ("", model.name)
                if model.state == pb.Model.STATE_READY and wanted:
                    dims = model.dims.n_agents, model.dims.n_actions, model.dims.obs_dim
                    return Model(model.name, model.version, *dims, model.episode_limit)
            raise AssertionError(NO_MODEL)
        return None

    @contextmanager
    def reported(self, name: str) -> Iterator[None]:
        """Tells locust how long it took within, and of what a call or an assertion raised."""
        start, fault = time.perf_counter(), None
        try:
            yield
        except (grpc.RpcError, AssertionError) as error:
            fault = error
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=1e3 * (time.perf_counter() - start),
            response_length=0,
            exception=fault,
            context={},
        )


class UnaryAgent(GrpcUser):
    """`Act`, with carried memory."""

    def begin(self) -> None:
        super().begin()
        self.hidden, self.last_action = b"", -1

    def act(self) -> None:
        obs, available = self.model.observe()
        request = pb.ActRequest(
            model=self.model.name,
            version=self.model.version,
            agent_id=self.agent_id,
            obs=obs.tobytes(),
            avail_actions=available.tobytes(),
            hidden=self.hidden,
            last_action=self.last_action,
        )
        with self.reported("Act"):
            answer = self.stub.Act(request, timeout=TIMEOUT_S, metadata=self.metadata)
            assert available[answer.action], "an action that was not open"
            self.hidden, self.last_action = answer.next_hidden, answer.action


class StreamAgent(GrpcUser):
    """`ActStream`, which holds the memory; each message is answered before the next is sent."""

    requests: gevent.queue.Queue[pb.ActStreamRequest | None] | None = None
    answers: Iterator[pb.ActStreamResponse]

    def begin(self) -> None:
        super().begin()
        self.fresh: pb.Episode | None = pb.Episode(
            model=self.model.name, version=self.model.version, agent_id=self.agent_id
        )

    def act(self) -> None:
        obs, available = self.model.observe()
        request = pb.ActStreamRequest(
            begin=self.fresh, obs=obs.tobytes(), avail_actions=available.tobytes()
        )
        done = False
        with self.reported("ActStream"):
            self.opened().put(request)
            action = next(self.answers).action
            done, self.fresh = True, None
            assert available[action], "an action that was not open"
        if not done:  # the stream is over, and its memory with it
            self.hang_up()
            self.begin()

    def opened(self) -> gevent.queue.Queue[pb.ActStreamRequest | None]:
        if self.requests is None:
            self.requests = gevent.queue.Queue()
            messages = iter(self.requests.get, None)
            self.answers = self.stub.ActStream(messages, metadata=self.metadata)
        return self.requests

    def hang_up(self) -> None:
        if self.requests is not None:
            self.requests.put(None)
            self.requests = None

    def on_stop(self) -> None:
        self.hang_up()
        super().on_stop()


def _channel(address: str, host: str, authority: str) -> grpc.Channel:
    """To HOST:PORT; with TLS if the REST door has it."""
    parts = urlsplit(host)
    target = address or f"{parts.hostname}:50051"
    options = [("grpc.use_local_subchannel_pool", 1)]
    if parts.scheme != "https":
        return grpc.insecure_channel(target, options=options)
    roots = Path(authority).read_bytes() if authority else None
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots), options=options)
