"""A battle as a page: one file that any browser opens, without a network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from training.envs.skirmish.frames import Battle
from training.looks import COLORS, action_words, shape_of

TEMPLATE = Path(__file__).with_name("replay_page.html")
PLACE = "/*battle*/null"


def to_page(battle: Battle, agent: int | None) -> str:
    """The page with the battle in it.

    Args:
        agent: whom it follows at first; the page's reader may choose another.
    """
    header = battle.header
    data: dict[str, Any] = {
        "header": dataclasses.asdict(header),
        "frames": [dataclasses.asdict(frame) for frame in battle.frames],
        "agent": agent,
        "colors": COLORS,
        "shapes": {unit.type: shape_of(unit.type) for unit in header.units},
        "words": [action_words(header, i) for i in range(header.n_agents)],
    }
    head, tail = TEMPLATE.read_text(encoding="utf-8").split(PLACE)
    return head + _embedded(data) + tail


def _embedded(data: dict[str, Any]) -> str:
    """JSON that stays inside its script element: no string can close it or open a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # pure ASCII
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
