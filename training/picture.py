"""One moment of a battle as an image: the battlefield, the score, a legend, an agent's choice.

A moment is a step or a point between two: positions and health lie between theirs, the lines are
those of the step that is going on, and an agent's choice is the one it made at the step before.
"""

from __future__ import annotations

import math
from functools import cached_property

from PIL import Image, ImageDraw

from training.battlefield import SMOOTH, Battlefield, Color, Moment, font, paint
from training.envs.skirmish.frames import Battle, Frame
from training.looks import COLORS, action_words, q_range, shape_of, type_words

TOP, BOTTOM, PANEL = 64, 64, 240  # pixels
MIN_WIDTH = 560  # without the panel: what the words above and below need
PANEL_ROWS = 20


class Painter:
    """Draws any moment of one battle.

    Args:
        agent: whose choices, sight and shoot range are shown; None for nobody's.
    """

    def __init__(self, battle: Battle, agent: int | None = None) -> None:
        self._battle, self._header, self._agent = battle, battle.header, agent
        self._field = Battlefield(battle, agent)
        self._body_width = max(self._field.width, MIN_WIDTH)
        width = self._body_width + (PANEL if agent is not None else 0)
        height = TOP + self._field.height + BOTTOM
        self.size = (width + width % 2, height + height % 2)  # even, as films must be

    def draw(self, position: float) -> Image.Image:
        """The battle at step `position`, which may lie between two."""
        frames = self._battle.frames
        step = min(int(position), len(frames) - 1)
        going = frames[min(math.ceil(position), len(frames) - 1)]
        moment = Moment(frames[step], going, position - step)
        width, height = self.size
        image = Image.new("RGB", (width * SMOOTH, height * SMOOTH), COLORS["page"])
        inset = (self._body_width - self._field.width) // 2
        image.paste(self._field.draw(moment), (inset * SMOOTH, TOP * SMOOTH))
        draw = ImageDraw.Draw(image, "RGBA")
        self._top(draw, moment)
        self._legend(draw, moment)
        if self._agent is not None:
            self._panel(draw, moment.now, self._agent)
        return image.reduce(SMOOTH)

    def _text(
        self,
        draw: ImageDraw.ImageDraw,
        place: tuple[float, float],
        text: str,
        size: int,
        color: Color,
        anchor: str = "lm",
        bold: bool = False,
    ) -> float:
        """Writes at final pixels; returns the text's width there."""
        at = (place[0] * SMOOTH, place[1] * SMOOTH)
        draw.text(at, text, color, font(size, bold), anchor=anchor)
        return font(size, bold).getlength(text) / SMOOTH

    def _top(self, draw: ImageDraw.ImageDraw, moment: Moment) -> None:
        header, now, right = self._header, moment.now, self._body_width - 16
        wide = self._text(draw, (16, 22), header.map, 17, paint("ink"), bold=True)
        about = f"{header.policy}  ·  seed {header.seed}  ·  battle {header.battle}"
        self._text(draw, (28 + wide, 23), _fit(about, 12, right - wide - 300), 12, paint("muted"))
        text = f"step {now.t}    return {now.sum:.2f}"
        wide = self._text(draw, (right, 22), text, 13, paint("ink"), "rm", bold=True)
        if now.end:
            word = {"time": "out of time"}.get(now.end, now.end).upper()
            color = paint({"won": "ally", "lost": "enemy"}.get(now.end, "muted"))
            self._text(draw, (right - wide - 20, 22), word, 15, color, "rm", bold=True)
        self._strength(draw, moment)

    def _strength(self, draw: ImageDraw.ImageDraw, moment: Moment) -> None:
        """What is left of either side's health and shields, from the middle outward."""
        middle, length = self._body_width / 2, self._body_width / 2 - 20
        for side, sign in (("ally", -1), ("enemy", 1)):
            units = [(i, u) for i, u in enumerate(self._header.units) if u.side == side]
            whole = sum(u.health_max + u.shield_max for _, u in units)
            left = sum(
                moment.health(i) + moment.shield(i) for i, _ in units if moment.health(i) > 0
            )
            for part, color in ((1.0, paint("faint")), (left / whole, paint(side))):
                if part <= 0:
                    continue
                ends = sorted((middle + 4 * sign, middle + (4 + length * min(part, 1.0)) * sign))
                box = [ends[0] * SMOOTH, 44 * SMOOTH, ends[1] * SMOOTH, 52 * SMOOTH]
                draw.rounded_rectangle(box, 3 * SMOOTH, fill=color)

    def _legend(self, draw: ImageDraw.ImageDraw, moment: Moment) -> None:
        top, half = TOP + self._field.height + 20, self._body_width / 2
        for side, at, end in (("ally", 20.0, half), ("enemy", half + 4, self._body_width)):
            types = [unit.type if unit.side == side else "" for unit in self._header.units]
            for kind in dict.fromkeys(filter(None, types)):
                those = [i for i, name in enumerate(types) if name == kind]
                alive = sum(moment.now.hp[i] > 0 for i in those)
                words = f"{type_words(kind)}  {alive}/{len(those)}"
                if at + 40 + font(12).getlength(words) / SMOOTH > end:
                    self._text(draw, (at, top), "…", 12, paint("muted"))
                    break
                corners = [
                    ((at + 8 + 7 * a) * SMOOTH, (top - 7 * b) * SMOOTH) for a, b in shape_of(kind)
                ]
                draw.polygon(corners, fill=paint(side))
                at += 40 + self._text(draw, (at + 22, top), words, 12, paint("ink"))
        self._keys(draw, top + 26)

    def _keys(self, draw: ImageDraw.ImageDraw, top: float) -> None:
        keys = [("health", "health", "arc"), ("attacks", "ally", "line"), ("aims", "ally", "thin")]
        if any(unit.shield_max for unit in self._header.units):
            keys.insert(1, ("shield", "shield", "arc"))
        if any(unit.heals for unit in self._header.units):
            keys.append(("heals", "heal", "line"))
        keys.append(("fell", "muted", "cross"))
        if self._agent is not None:
            keys += [("shoot range", "ink", "thin"), ("sight", "ink", "dashes")]
        at = 20.0
        for words, color, kind in keys:
            self._key(draw, at, top, kind, paint(color, 0.45 if kind == "thin" else 1.0))
            at += 24 + self._text(draw, (at + 24, top), words, 11, paint("muted")) + 16

    def _key(
        self, draw: ImageDraw.ImageDraw, at: float, top: float, kind: str, color: Color
    ) -> None:
        def line(x0: float, y0: float, x1: float, y1: float, width: int = 1) -> None:
            ends = [
                (x0 + at) * SMOOTH,
                (y0 + top) * SMOOTH,
                (x1 + at) * SMOOTH,
                (y1 + top) * SMOOTH,
            ]
            draw.line(ends, fill=color, width=width * SMOOTH)

        if kind == "arc":
            box = [(at + 2) * SMOOTH, (top - 7) * SMOOTH, (at + 16) * SMOOTH, (top + 7) * SMOOTH]
            draw.arc(box, -90, 190, fill=color, width=3 * SMOOTH)
        elif kind == "cross":
            line(4, -5, 14, 5, 2)
            line(4, 5, 14, -5, 2)
        elif kind == "dashes":
            for x in range(0, 18, 5):
                line(x, 0, x + 2.5, 0)
        else:
            line(0, 0, 18, 0, 2 if kind == "line" else 1)

    # ---------------------------------------------------------- an agent's choice

    @cached_property
    def _q_range(self) -> tuple[float, float]:
        agent = self._agent or 0
        return q_range([(f.av[agent], f.q[agent]) for f in self._battle.frames if f.q is not None])

    def _panel(self, draw: ImageDraw.ImageDraw, frame: Frame, agent: int) -> None:
        left, unit = self.size[0] - PANEL, self._header.units[agent]
        box = [left * SMOOTH, 0, self.size[0] * SMOOTH, self.size[1] * SMOOTH]
        draw.rectangle(box, fill=paint("panel"))
        title = f"agent {agent}  ·  {type_words(unit.type)}"
        self._text(draw, (left + 16, 22), title, 14, paint("ink"), bold=True)
        self._text(draw, (left + 16, 44), self._condition(frame, agent), 11, paint("muted"))
        row_height = min(24, (self.size[1] - 100) // PANEL_ROWS)
        for k, action in enumerate(self._rows(frame, agent)):
            self._row(draw, left, TOP + 12 + k * row_height, frame, agent, action)
        if self._header.q_note:
            lines = _wrap(self._header.q_note, 10, PANEL - 32)
            for k, line in enumerate(lines):
                place = (left + 16, self.size[1] - 14 * (len(lines) - k))
                self._text(draw, place, line, 10, paint("muted"))

    def _condition(self, frame: Frame, agent: int) -> str:
        unit = self._header.units[agent]
        if frame.hp[agent] <= 0:
            return f"fell at step {self._field.fell[agent]}"
        shield = f",  shield {frame.sh[agent]:.0f}/{unit.shield_max:.0f}" if unit.shield_max else ""
        return f"health {frame.hp[agent]:.0f}/{unit.health_max:.0f}{shield}"

    def _rows(self, frame: Frame, agent: int) -> list[int]:
        """All actions where they have room, else those that are available; none of the dead."""
        if frame.hp[agent] <= 0:
            return []
        actions = list(range(len(self._header.actions)))
        if len(actions) > PANEL_ROWS:
            actions = [a for a in actions if frame.av[agent][a] == "1"]
        return actions[:PANEL_ROWS]

    def _row(
        self,
        draw: ImageDraw.ImageDraw,
        left: float,
        top: float,
        frame: Frame,
        agent: int,
        action: int,
    ) -> None:
        available = frame.av[agent][action] == "1"
        chosen = frame.a is not None and frame.a[agent] == action and frame.hp[agent] > 0
        color = paint("ink") if chosen else paint("muted", 1.0 if available else 0.35)
        words = action_words(self._header, agent)[action]
        self._text(draw, (left + 16, top), words, 11, color, bold=chosen)
        bar = left + 92
        if chosen:
            self._text(draw, (left + 4, top), "▸", 11, color)
        if frame.q is None:
            box = [bar * SMOOTH, (top - 4) * SMOOTH, (bar + 8) * SMOOTH, (top + 4) * SMOOTH]
            fill = paint("ally") if chosen else paint("muted", 0.8 if available else 0.15)
            draw.ellipse(box, fill=fill)
        elif available and frame.hp[agent] > 0:
            (low, high), value = self._q_range, frame.q[agent][action]
            end = bar + 4 + 84 * (value - low) / (high - low)
            box = [bar * SMOOTH, (top - 5) * SMOOTH, end * SMOOTH, (top + 5) * SMOOTH]
            draw.rectangle(box, fill=paint("ally", 1.0 if chosen else 0.45))
            self._text(draw, (left + PANEL - 12, top), f"{value:.2f}", 11, color, "rm")


def _fit(text: str, size: int, width: float) -> str:
    """The text, its middle left out where it is too long for this width."""
    whole, keep = text, len(text)
    while keep > 8 and font(size).getlength(text) > width * SMOOTH:
        keep -= 2
        text = f"{whole[: keep // 2]}…{whole[-keep // 2 :]}"
    return text


def _wrap(text: str, size: int, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font(size).getlength(longer) > width * SMOOTH and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
