"""Published numbers to stand beside ours: a YAML that gives a source for each.

title: Rashid et al., ICML 2018
maps:
  3m:
    heuristic: {percent: 76, source: Table 7}
    iql: {says: wins now and then, source: section 6.1}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training.envs import nearest
from training.report.results import ReportError

KEYS = ("percent", "says", "source")


@dataclass(frozen=True)
class Published:
    """What a publication says of one algorithm on one map."""

    percent: float | None
    """The win rate; None where it only says something about it."""
    says: str
    source: str


@dataclass(frozen=True)
class Reference:
    """A publication's numbers: map -> variant -> what it says."""

    title: str
    maps: dict[str, dict[str, Published]]


def load_reference(path: Path) -> Reference:
    """Raises: ReportError: naming the file and the key that is wrong."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ReportError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ReportError(f"{path}: expected `name: value` lines")
    for key in values:
        if key not in ("title", "maps"):
            raise ReportError(f"{path}: unknown key {key!r}{nearest(str(key), ('title', 'maps'))}")
    if not isinstance(values.get("title"), str) or not isinstance(values.get("maps"), dict):
        raise ReportError(f"{path}: needs a title, and maps with their algorithms")
    maps: dict[str, dict[str, Published]] = {}
    for map_name, algos in values["maps"].items():
        if not isinstance(algos, dict):
            raise ReportError(f"{path}: {map_name}: expected algorithms")
        maps[str(map_name)] = {
            str(algo): _published(about, f"{path}: {map_name}.{algo}")
            for algo, about in algos.items()
        }
    return Reference(values["title"], maps)


def _published(about: Any, source: str) -> Published:
    if not isinstance(about, dict):
        raise ReportError(f"{source}: expected percent or says, and source")
    for key in about:
        if key not in KEYS:
            raise ReportError(f"{source}: unknown key {key!r}{nearest(str(key), KEYS)}")
    percent, says = about.get("percent"), about.get("says", "")
    if not isinstance(about.get("source"), str):
        raise ReportError(f"{source}: a number without a source is not shown")
    if percent is not None and (type(percent) not in (int, float) or not 0 <= percent <= 100):
        raise ReportError(f"{source}: percent must be between 0 and 100, not {percent!r}")
    if percent is None and not (isinstance(says, str) and says):
        raise ReportError(f"{source}: says neither a percent nor anything else")
    return Published(None if percent is None else float(percent), says, about["source"])
