"""The report as one page that needs no network, and as Markdown with pictures beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from training.report.figures import Picture
from training.report.tables import Table

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Content:
    """What the report says, in order."""

    title: str
    warnings: Sequence[str]
    notes: str
    """The reader's own sentences: paragraphs, "# headings", "- lists" and `code`."""
    pictures: Mapping[str, Picture]
    """By the stems of their files; those of maps come first."""
    tables: Sequence[Table]
    methods: Sequence[str]


def to_html(content: Content) -> str:
    """The whole report in one file."""
    parts = [f"<h1>{escape(content.title)}</h1>"]
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in content.warnings]
    parts.append(notes_to_html(content.notes))
    parts.append('<h2>Learning curves</h2>\n<div class="curves">')
    parts += [_figure(name, picture) for name, picture in content.pictures.items()]
    parts.append("</div>")
    parts += [_section(table) for table in content.tables]
    parts.append("<h2>How the numbers are made</h2>\n<ul>")
    parts += [f"<li>{escape(method)}</li>" for method in content.methods]
    parts.append("</ul>")
    page = TEMPLATE.read_text(encoding="utf-8")
    head, tail = page.replace("/*title*/", escape(content.title)).split("/*body*/")
    return head + "\n".join(part for part in parts if part) + tail


def to_markdown(content: Content) -> str:
    """The same for where HTML is not shown; its pictures are files beside it."""
    parts = [f"# {content.title}"]
    parts += [f"**{warning}**" for warning in content.warnings]
    parts += [content.notes.strip()] if content.notes.strip() else []
    parts += [f"![{picture.words}]({name}.png)" for name, picture in content.pictures.items()]
    parts += [f"## {table.title}\n\n{table.to_markdown().rstrip()}" for table in content.tables]
    methods = "\n".join(f"- {method}" for method in content.methods)
    parts.append(f"## How the numbers are made\n\n{methods}")
    return "\n\n".join(parts) + "\n"


def notes_to_html(notes: str) -> str:
    """The little of Markdown that notes need; everything else is text."""
    blocks = re.split(r"\n\s*\n", notes.strip())
    return "\n".join(_block(block) for block in blocks if block.strip())


def _block(block: str) -> str:
    lines = block.strip().splitlines()
    if lines[0].startswith("#"):
        heading = f"<h2>{_inline(lines[0].lstrip('#').strip())}</h2>"
        return heading + ("\n" + _block("\n".join(lines[1:])) if lines[1:] else "")
    if all(line.startswith(("- ", "  ")) for line in lines):
        items = re.split(r"^- ", "\n".join(lines), flags=re.MULTILINE)[1:]
        return "<ul>" + "".join(f"<li>{_inline(item.strip())}</li>" for item in items) + "</ul>"
    return f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _figure(name: str, picture: Picture) -> str:
    words = escape(picture.words)
    return (
        f'<figure id="figure-{escape(name)}" role="img" aria-label="{words}">'
        f"{picture.to_svg(name)}<figcaption>{words}</figcaption></figure>"
    )


def _section(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = "".join(f"<tr>{''.join(_cells(table, row))}</tr>\n" for row in table.rows)
    shown = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f'<table id="{table.name}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )
    return f"<h2>{escape(table.title)}</h2>\n{shown}"


def _cells(table: Table, row: Sequence[str]) -> list[str]:
    codes = ("settings", "command")
    return [
        f"<td><code>{escape(cell)}</code></td>" if column in codes else f"<td>{escape(cell)}</td>"
        for column, cell in zip(table.columns, row, strict=True)
    ]
