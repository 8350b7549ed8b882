"""Every setting of the step service: read once, from the command line, then the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Frozen. Each field can be set by the environment variable UNMIX_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="UNMIX_", frozen=True, extra="ignore")

    models: Path = Field(Path("models"), description="Folder of the models: NAME/VERSION/.")
    host: str = Field("127.0.0.1", description="Address that both doors listen on.")
    http_port: int = Field(8000, ge=0, le=65535, description="Port of the REST door; 0: any free.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port of the gRPC door; 0: any free.")
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the admin door, on 127.0.0.1 alone; 0: any free. Without it there is "
        "no such door.",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the models run.")

    watch_models_s: float = Field(
        0.0,
        ge=0,
        description="Seconds between two looks for new versions in the models' folder; 0: none.",
    )

    max_batch: int = Field(512, ge=1, le=65536, description="Rows in one run of a model, at most.")
    max_queue: int = Field(
        4096, ge=1, description="Rows that may wait for one model; more are refused at once."
    )
    step_timeout_s: float = Field(
        2.0, gt=0, description="Seconds a step may wait before it is given up."
    )

    max_body_bytes: int = Field(
        256 * 1024, ge=1024, description="Largest HTTP body or gRPC message, in bytes."
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
    max_streams: int = Field(10_000, ge=1, description="Unit streams open at a time.")

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

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="How logs are written; auto: for people on a terminal, else JSON lines."
    )
