"""docs/environments.md: its snippets run as they stand, each by itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "environments.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(snippet, str(PAGE), "exec"), names)
    assert "env" in names


def test_all_snippets_are_found() -> None:
    assert len(SNIPPETS) == 4


def test_shapes_on_the_page_are_the_environments() -> None:
    names: dict[str, Any] = {}
    exec(SNIPPETS[0], names)
    told = re.search(r"# obs (\[.*?\]), state (\[.*?\]), avail_actions (\[.*?\])", SNIPPETS[0])
    assert told is not None
    assert [str(list(part.shape)) for part in names["shown"]] == list(told.groups())
