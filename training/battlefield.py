"""The battlefield at one moment as an image: the ground, the units, and what they do to each other.

Drawn at `SMOOTH` times the size and reduced by who shows it, which smooths every edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import matplotlib
from PIL import Image, ImageColor, ImageDraw, ImageFont

from training.envs.skirmish.frames import Battle, Frame, Unit
from training.looks import COLORS, shape_of

SMOOTH = 2
MAP_WIDTH, MAP_HEIGHT = 800, 520  # pixels, at most
MARGIN = 2.5  # of the map around the outermost units
MIN_VIEW = 14.0  # the map shows at least as much
SMALLEST_LABEL = 7  # pixels of a unit's radius below which it carries no number
BODY = 0.82  # of a unit's radius is its shape's; the rest is for the rings
RING = 3  # pixels
SHADOW = (0, 0, 0, 90)
_ANGLES = [2 * math.pi * i / 144 for i in range(145)]

Color = tuple[int, int, int, int]


def paint(name: str, alpha: float = 1.0) -> Color:
    r, g, b = ImageColor.getrgb(COLORS[name])[:3]
    return r, g, b, round(255 * alpha)


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """matplotlib's own font, so that a picture looks alike everywhere; `size` in final pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / name), size * SMOOTH)


@dataclass(frozen=True)
class Moment:
    """Between two frames: how far from the first to the second, and what is then where."""

    now: Frame
    """The last step that has been reached."""
    going: Frame
    """The step that is going on; `now` where it has just been reached."""
    part: float

    def between(self, before: float, after: float) -> float:
        return before + (after - before) * self.part

    def place(self, i: int) -> tuple[float, float]:
        x = self.between(self.now.x[i], self.going.x[i])
        return x, self.between(self.now.y[i], self.going.y[i])

    def face(self, i: int) -> float:
        """Radians, the shorter way round."""
        turn = (self.going.face[i] - self.now.face[i] + 180) % 360 - 180
        return math.radians(self.now.face[i] + turn * self.part)

    def health(self, i: int) -> float:
        return self.between(self.now.hp[i], self.going.hp[i])

    def shield(self, i: int) -> float:
        return self.between(self.now.sh[i], self.going.sh[i])


class Battlefield:
    """Draws the part of the map where a battle happens, at any moment of it.

    Args:
        agent: whose sight and shoot range are shown; None for nobody's.
    """

    def __init__(self, battle: Battle, agent: int | None = None) -> None:
        self._battle, self._header, self._agent = battle, battle.header, agent
        self._left, self._low, self._right, self._high = _view(battle)
        self._scale = min(
            MAP_WIDTH / (self._right - self._left), MAP_HEIGHT / (self._high - self._low)
        )
        self.width = round((self._right - self._left) * self._scale)
        self.height = round((self._high - self._low) * self._scale)
        self.fell = [_fell_at(battle, i) for i in range(len(self._header.units))]
        """By unit: the step at which it was first seen dead, None for who lives."""

    def draw(self, moment: Moment) -> Image.Image:
        """[SMOOTH * height, SMOOTH * width] pixels."""
        image = self._ground.copy()
        draw = ImageDraw.Draw(image, "RGBA")
        self._graves(draw, moment.now.t + moment.part)
        if self._agent is not None and moment.now.hp[self._agent] > 0:
            self._ranges(draw, *moment.place(self._agent))
        self._lines(draw, moment, fires=False)
        for i in sorted(range(len(self._header.units)), key=self._draws_late):
            if moment.health(i) > 0:
                self._unit(draw, moment, i)
        self._lines(draw, moment, fires=True)
        return image

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Map coordinates to drawn pixels; north is up."""
        size = self._scale * SMOOTH
        return (x - self._left) * size, (self._high - y) * size

    @cached_property
    def _ground(self) -> Image.Image:
        image = Image.new("RGB", (self.width * SMOOTH, self.height * SMOOTH), COLORS["void"])
        draw = ImageDraw.Draw(image, "RGBA")
        rows = self._header.pathable
        for y, row in enumerate(rows):
            for x, cell in enumerate(row):
                box = (*self._at(x, y + 1), *self._at(x + 1, y))
                draw.rectangle(box, fill=self._cell_color(cell, self._header.level[y][x]))
        for i in range(self._header.size + 1):
            for ends in (((i, 0), (i, self._header.size)), ((0, i), (self._header.size, i))):
                draw.line([self._at(*end) for end in ends], fill=paint("ink", 0.03), width=SMOOTH)
        for ends in _borders(rows):
            draw.line([self._at(*end) for end in ends], fill=paint("edge"), width=2 * SMOOTH)
        return image

    def _cell_color(self, cell: str, level: float) -> Color:
        if cell == "#":
            return paint("cliff" if level else "void")
        low, high, part = paint("ground"), paint("high"), min(max(level - 1, 0.0), 1.0)
        r, g, b = (round(a + (c - a) * part) for a, c in zip(low[:3], high[:3], strict=True))
        return r, g, b, 255

    def _circle(self, x: float, y: float, radius: float) -> tuple[float, float, float, float]:
        (px, py), r = self._at(x, y), radius * self._scale * SMOOTH
        return px - r, py - r, px + r, py + r

    def _graves(self, draw: ImageDraw.ImageDraw, position: float) -> None:
        """A cross where a unit fell, and for a step a ring that spreads from it."""
        for i, unit in enumerate(self._header.units):
            fell = self.fell[i]
            if fell is None or position < fell:
                continue
            frame, age = self._battle.frames[fell], position - fell
            (x, y), arm = (frame.x[i], frame.y[i]), unit.radius * 0.45
            for dx, dy in ((arm, arm), (arm, -arm)):
                ends = [self._at(x - dx, y - dy), self._at(x + dx, y + dy)]
                draw.line(ends, fill=paint(unit.side, 0.45), width=2 * SMOOTH)
            if age < 1:
                spread = (unit.burst or 2 * unit.radius) * (0.6 + 0.4 * age)
                color = paint("heal" if unit.burst else unit.side, 0.35 * (1 - age))
                draw.ellipse(self._circle(x, y, spread), fill=color)

    def _ranges(self, draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
        """Shoot range as a line, sight as dashes."""
        shoot, sight = (
            [self._at(x + radius * math.cos(a), y + radius * math.sin(a)) for a in _ANGLES]
            for radius in (self._header.shoot, self._header.sight)
        )
        draw.line(shoot, fill=paint("ink", 0.6), width=SMOOTH)
        for k in range(0, len(sight) - 1, 2):
            draw.line(sight[k : k + 2], fill=paint("ink", 0.4), width=SMOOTH)

    def _lines(self, draw: ImageDraw.ImageDraw, moment: Moment, fires: bool) -> None:
        """Who shoots at whom (or heals), bright and with a dot at its end; or who only aims."""
        going = moment.going
        for i, target in enumerate(going.tg):
            if target < 0 or going.hp[i] <= 0 or bool(going.fire[i]) != fires:
                continue
            unit = self._header.units[i]
            color = "heal" if unit.side == self._header.units[target].side else unit.side
            ends = self._edge_to_edge(moment, i, target)
            if not fires:
                draw.line(ends, fill=paint(color, 0.3), width=SMOOTH)
                continue
            draw.line(ends, fill=paint("page", 0.5), width=4 * SMOOTH)
            draw.line(ends, fill=paint(color), width=2 * SMOOTH)
            (x, y), r = ends[1], 3.5 * SMOOTH
            box = (x - r, y - r, x + r, y + r)
            draw.ellipse(box, fill=paint(color), outline=paint("page"), width=SMOOTH)

    def _edge_to_edge(self, moment: Moment, i: int, target: int) -> list[tuple[float, float]]:
        """A line between two units that leaves both of them readable."""
        (x0, y0), (x1, y1) = moment.place(i), moment.place(target)
        gap = math.hypot(x1 - x0, y1 - y0) or 1.0
        dx, dy = (x1 - x0) / gap, (y1 - y0) / gap
        near, far = (min(self._header.units[k].radius * 0.9, gap / 2) for k in (i, target))
        return [self._at(x0 + dx * near, y0 + dy * near), self._at(x1 - dx * far, y1 - dy * far)]

    def _draws_late(self, i: int) -> tuple[bool, bool, float]:
        """Flyers above all others, the chosen agent above its like, small above large."""
        unit = self._header.units[i]
        return unit.flies, i == self._agent, -unit.radius

    def _unit(self, draw: ImageDraw.ImageDraw, moment: Moment, i: int) -> None:
        unit, (x, y) = self._header.units[i], moment.place(i)
        if unit.flies:
            draw.ellipse(self._circle(x + 0.25, y - 0.4, unit.radius), fill=SHADOW)
        draw.ellipse(self._circle(x, y, unit.radius), fill=paint("page", 0.55))
        self._rings(draw, unit, (x, y), moment.health(i), moment.shield(i))
        corners = self._corners(unit, x, y, moment.face(i))
        draw.polygon(corners, fill=paint(unit.side), outline=paint("page"), width=SMOOTH)
        if i == self._agent:
            draw.line([*corners, *corners[:2]], paint("chosen"), 2 * SMOOTH, "curve")
        radius = unit.radius * self._scale
        if radius >= SMALLEST_LABEL:
            number = i if unit.side == "ally" else i - self._header.n_agents
            style = font(max(7, min(13, round(radius * 0.7))), bold=True)
            draw.text(self._at(x, y), str(number), paint("page"), style, anchor="mm")

    def _corners(self, unit: Unit, x: float, y: float, face: float) -> list[tuple[float, float]]:
        size = unit.radius * BODY
        cos, sin = math.cos(face) * size, math.sin(face) * size
        shape = shape_of(unit.type)
        return [self._at(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in shape]

    def _rings(
        self,
        draw: ImageDraw.ImageDraw,
        unit: Unit,
        place: tuple[float, float],
        health: float,
        shield: float,
    ) -> None:
        """Health, and outside it shield, as arcs from the top on, clockwise."""
        part = health / unit.health_max
        color = "health" if part > 0.6 else "hurt" if part > 0.3 else "dying"
        arcs = [(part, color)]
        if unit.shield_max:
            arcs.append((shield / unit.shield_max, "shield"))
        for k, (part, color) in enumerate(arcs):
            box = self._circle(*place, unit.radius + (RING + 0.5) * k / self._scale)
            if part > 0:
                draw.arc(
                    box, -90, -90 + 360 * min(part, 1.0), fill=paint(color), width=RING * SMOOTH
                )


def _view(battle: Battle) -> tuple[float, float, float, float]:
    """What of the map is shown: where units ever were, with a margin, and not too little."""
    size = float(battle.header.size)

    def span(values: list[float]) -> tuple[float, float]:
        low, high = min(values) - MARGIN, max(values) + MARGIN
        spare = max(0.0, MIN_VIEW - (high - low)) / 2
        return max(0.0, low - spare), min(size, high + spare)

    left, right = span([x for frame in battle.frames for x in frame.x])
    low, high = span([y for frame in battle.frames for y in frame.y])
    return left, low, right, high


def _fell_at(battle: Battle, i: int) -> int | None:
    """The step at which unit i was first seen dead."""
    return next((k for k, frame in enumerate(battle.frames) if frame.hp[i] <= 0), None)


def _borders(rows: list[str]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The sides of cells between pathable ground and none."""
    height, width = len(rows), len(rows[0])
    beside = [((x, y), (x, y + 1)) for y in range(height) for x in range(1, width)
              if rows[y][x] != rows[y][x - 1]]  # fmt: skip
    above = [((x, y), (x + 1, y)) for y in range(1, height) for x in range(width)
             if rows[y][x] != rows[y - 1][x]]  # fmt: skip
    return beside + above
