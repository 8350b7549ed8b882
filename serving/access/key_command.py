"""`unmix-serve key new`: an API key, shown once, and the line that lets it in."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.access.keys import new_key
from serving.settings import SetupError

key_app = typer.Typer(rich_markup_mode=None, help="API keys.")


@key_app.callback()
def _group() -> None:
    """Keeps `new` a command of its own, where typer would fold a group of one."""


@key_app.command()
def new(
    name: Annotated[str, typer.Option(help="Whose key: 1 to 32 of a-z, 0-9, '.' and '-'.")],
    role: Annotated[
        list[str], typer.Option(help="act, observe or admin; may be given more than once.")
    ],
) -> None:
    """Make a key. It is shown now and never again; the keys file gets the line below it."""
    try:
        text, key = new_key(name, role)
    except SetupError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    typer.echo(f"key for the caller: {text}")
    typer.echo(f"line for the file:  {key.line()}")
