"""`python -m serving.server`: the command line of the step service."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from serving.access.key_command import key_app
from serving.logs import configure_logging
from serving.settings import Settings, SetupError

if TYPE_CHECKING:
    from serving.check import Finding

_FLAGS = (
    "models", "front", "host", "http_port", "grpc_port", "workers", "device", "insecure",
    "log_level", "log_format",
)  # fmt: skip


def _variable(field: str) -> str:
    return f"UNMIX_{field.upper()}"


def _option(field: str, *names: str) -> Any:
    info = Settings.model_fields[field]
    return typer.Option(
        *names,
        help=f"{info.description} Default: {info.default}, or {_variable(field)}.",
        show_default=False,
    )


_HELP = """
Serve the models of a folder over REST and gRPC.

Each request steps one agent: its own observation in, its action out. Memory is either the
caller's (it gets `next_hidden` and sends it back as `hidden`) or the service's (a gRPC stream
per unit, or a REST session).

REST is documented at http://HOST:HTTP_PORT/docs, gRPC in proto/unmix/v1/agent_service.proto
and by reflection. Probes: /livez, /readyz and grpc.health.v1. Prometheus: /metrics.

SIGTERM or Ctrl-C: not ready, nothing new, finish what runs, exit 0.
"""
_MORE = "More settings, from the environment:\n\n" + "\n\n".join(
    f"{_variable(field)}: {info.description} Default: {info.default}."
    for field, info in Settings.model_fields.items()
    if field not in _FLAGS
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(key_app, name="key")


Models = Annotated[Path | None, _option("models")]
Front = Annotated[str | None, _option("front")]
Host = Annotated[str | None, _option("host")]
HttpPort = Annotated[int | None, _option("http_port")]
GrpcPort = Annotated[int | None, _option("grpc_port")]
Workers = Annotated[int | None, _option("workers")]
Device = Annotated[str | None, _option("device")]
Insecure = Annotated[bool | None, _option("insecure", "--insecure")]
LogLevel = Annotated[str | None, _option("log_level")]
LogFormat = Annotated[str | None, _option("log_format")]


@app.callback(invoke_without_command=True, help=_HELP, epilog=_MORE)
def command(
    context: typer.Context,
    models: Models = None,
    front: Front = None,
    host: Host = None,
    http_port: HttpPort = None,
    grpc_port: GrpcPort = None,
    workers: Workers = None,
    device: Device = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    given = {name: value for name, value in locals().items() if value is not None}
    del given["context"]
    context.obj = given
    if context.invoked_subcommand is not None:
        return
    try:
        settings = Settings(**given)
        configure_logging(settings)
        raise typer.Exit(_run(settings))
    except ValidationError as error:
        for fault in _faults(error):
            typer.echo(fault, err=True)
        raise typer.Exit(2) from None
    except SetupError as error:
        typer.echo(f"cannot start: {error}", err=True)
        raise typer.Exit(1) from None


def _run(settings: Settings) -> int:
    """Serve until told to stop; the exit status. Raises: SetupError"""
    # Imported where they are needed: a process that only looks after others, workers or Envoy,
    # would carry the whole service for ever.
    if settings.workers > 1:
        from serving.process.supervisor import supervise

        return supervise(settings)
    import uvloop

    if settings.front == "envoy":
        from serving.process.envoy_front import serve_behind_envoy

        uvloop.run(serve_behind_envoy(settings))
        return 0
    from serving.models.device import check_device, check_engine
    from serving.process.lifecycle import serve

    check_engine()
    check_device(settings.device)
    uvloop.run(serve(settings))
    return 0


@app.command("check")
def check_command(
    context: typer.Context,
    models: Models = None,
    front: Front = None,
    host: Host = None,
    http_port: HttpPort = None,
    grpc_port: GrpcPort = None,
    workers: Workers = None,
    device: Device = None,
    insecure: Insecure = None,
) -> None:
    """Say, a line each, what is right and what is wrong with the settings, the files they name
    and the models, without serving. Exit 1 if anything is wrong."""
    given = {name: value for name, value in locals().items() if value is not None}
    del given["context"]
    # What is said of the models is said here, not in the log.
    logging.basicConfig(handlers=[logging.NullHandler()])
    findings = []
    for finding in _check({**context.obj, **given}):
        typer.echo(finding.line())
        findings.append(finding)
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


def _check(given: dict[str, Any]) -> Iterator[Finding]:
    from serving.check import Finding, check
    from serving.models.device import check_engine

    try:
        check_engine()
    except SetupError as error:
        yield Finding(False, str(error))
    try:
        settings = Settings(**given)
    except ValidationError as error:
        yield from (
            Finding(False, f"{fault}. Fix: see unmix-serve --help") for fault in _faults(error)
        )
    else:
        yield from check(settings)


def _faults(error: ValidationError) -> list[str]:
    faults = error.errors(include_url=False, include_input=False)
    return [f"setting {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]


def main() -> None:
    """The entry point of `unmix-serve`."""
    app()


if __name__ == "__main__":
    main()
