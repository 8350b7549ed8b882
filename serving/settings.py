"""Every setting of the step service: read once, from the command line, then the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

HANDSHAKE_S = 4.0
"""How long a connection may take until it can be talked over, TLS included."""

Role = Literal["act", "observe", "admin"]
"""act: steps and sessions; observe: models and metrics; admin: everything."""


class SetupError(Exception):
    """A setting, or a file that it names, that the server cannot start with.

    Attributes:
        fix: what to do about it.
    """

    def __init__(self, fault: str, fix: str) -> None:
        super().__init__(f"{fault}. Fix: {fix}")
        self.fault, self.fix = fault, fix


class Settings(BaseSettings):
    """Frozen. Each field can be set by the environment variable UNMIX_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="UNMIX_", frozen=True, extra="ignore")

    models: Path = Field(Path("models"), description="Folder of the models: NAME/VERSION/.")
    front: Literal["grpcio", "envoy"] = Field(
        "grpcio",
        description="What callers reach; grpcio: each door has a port of its own; envoy: both "
        "share http_port, behind Envoy.",
    )
    host: str = Field("127.0.0.1", description="Address that both doors listen on.")
    http_port: int = Field(8000, ge=0, le=65535, description="Port of the REST door; 0: any free.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port of the gRPC door; 0: any free.")
    workers: int = Field(
        1, ge=1, le=256, description="Processes behind the two ports, for as many cores."
    )
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the admin door, on 127.0.0.1 alone; 0: any free. Without it there is "
        "no such door.",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the models run.")

    insecure: bool = Field(
        False, description="Listen beyond this machine even without TLS or credentials."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of the server's certificate and its chain, for both doors."
    )
    tls_key: Path | None = Field(None, description="PEM file of that certificate's private key.")
    client_ca: Path | None = Field(
        None, description="PEM file of authorities; callers must show a certificate of theirs."
    )
    client_role: Literal["none", "act", "observe", "admin"] = Field(
        "act", description="Role that a client certificate gives; none: a key or token is needed."
    )
    keys: Path | None = Field(
        None, description="File of API keys' hashes (`unmix-serve key new` makes them)."
    )
    jwks: Path | None = Field(None, description="JWKS file; its keys sign callers' JWTs.")
    jwt_issuer: str = Field("", description="The `iss` that a JWT must have.")
    jwt_audience: str = Field("", description="The `aud` that a JWT must have.")
    rate_per_s: float = Field(
        0.0, ge=0, description="Requests a second that one caller may make; 0: any number."
    )
    rate_burst: int = Field(
        100, ge=1, description="Requests that a caller who has been quiet may make at once."
    )

    watch_models_s: float = Field(
        0.0,
        ge=0,
        description="Seconds between two looks for new versions in the models' folder; 0: none.",
    )

    max_batch: int = Field(512, ge=1, le=65536, description="Rows in one run of a model, at most.")
    max_rows: int = Field(
        512, ge=1, description="Rows in one message, at most; never more than max_queue."
    )
    max_queue: int = Field(
        4096,
        ge=1,
        description="Rows that may wait for one model, half of them one connection's; more are "
        "refused at once.",
    )
    step_timeout_s: float = Field(
        2.0, gt=0, description="Seconds a step may wait before it is given up."
    )

    max_body_bytes: int = Field(
        1024 * 1024, ge=1024, description="Largest HTTP body or gRPC message, in bytes."
    )
    receive_timeout_s: float = Field(
        5.0, gt=0, description="Seconds an HTTP request may take to arrive."
    )
    keep_alive_s: int = Field(
        60, ge=1, description="Seconds an HTTP connection may stay idle between requests."
    )

    max_sessions: int = Field(10_000, ge=1, description="REST sessions held at a time.")
    max_client_sessions: int = Field(
        2_000,
        ge=1,
        description="REST sessions that one client address may hold; raise it where all callers "
        "come through one proxy.",
    )
    session_ttl_s: float = Field(
        600.0, gt=0, description="Seconds after its last step that a session is forgotten."
    )
    max_streams: int = Field(
        10_000, ge=1, description="Units that gRPC streams hold at a time, one or many a stream."
    )
    max_client_streams: int = Field(
        2_000,
        ge=1,
        description="Units that the streams of one client (a credential, else an address) may "
        "hold; raise it where all callers come through one proxy.",
    )

    memory_keys: Path | None = Field(
        None,
        description="File of keys that seal carried memory, an id and a base64 key a line; the "
        "first seals, all open.",
    )

    drain_delay_s: float = Field(
        0.25,
        ge=0,
        description="Seconds to stay up after SIGTERM, turning callers away: more, where load "
        "balancers have to notice first.",
    )
    grace_s: float = Field(
        10.0, ge=0, description="Seconds that running steps get to finish after that."
    )

    traces: Literal["none", "otlp"] = Field(
        "none", description="Where spans go; otlp: as OTEL_EXPORTER_OTLP_ENDPOINT says."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="How logs are written; auto: for people on a terminal, else JSON lines."
    )
