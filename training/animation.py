"""A battle as an animated picture: GIF, or MP4 where ffmpeg is at hand."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageColor

from training.envs.skirmish.frames import Battle
from training.looks import COLORS
from training.picture import Painter

PER_STEP, IMAGE_MS = 2, 80  # images a step, so that units glide; GIF knows hundredths of a second
LONG, LONG_IMAGE_MS = 75, 120  # battles of more steps get one image a step
HOLD_MS = 2000  # of the last image
N_SAMPLES = 8  # images from which the palette is taken
N_COLORS = 128

Tell = Callable[[int, int], None]
"""Called with how many images are drawn, and how many there are."""


class AnimationError(RuntimeError):
    """The picture cannot be made here; the message says what would help."""


def positions(battle: Battle) -> list[float]:
    """The steps, and points between them, that are drawn."""
    n_steps = len(battle.frames) - 1
    per_step = PER_STEP if n_steps <= LONG else 1
    return [i / per_step for i in range(n_steps * per_step + 1)]


def image_ms(battle: Battle) -> int:
    """How long each image stands."""
    return IMAGE_MS if len(battle.frames) - 1 <= LONG else LONG_IMAGE_MS


def to_gif(battle: Battle, agent: int | None, tell: Tell) -> bytes:
    """The battle as a GIF that repeats."""
    painter, places = Painter(battle, agent), positions(battle)
    palette = _palette(painter, places)
    images = [
        image.quantize(palette=palette, dither=Image.Dither.NONE)
        for image in _images(painter, places, tell)
    ]
    durations = [image_ms(battle)] * (len(images) - 1) + [HOLD_MS]
    file = io.BytesIO()
    # Without `optimize`: it would reorder the palette of every image, which all share.
    images[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        optimize=False,
    )
    return file.getvalue()


def to_mp4(battle: Battle, agent: int | None, tell: Tell) -> bytes:
    """The battle as an H.264 film.

    Raises:
        AnimationError: there is no ffmpeg, or it fails.
    """
    program = require_ffmpeg()
    painter, places = Painter(battle, agent), positions(battle)
    rate = 1000 / image_ms(battle)
    places = places + places[-1:] * round(rate * HOLD_MS / 1000)
    width, height = painter.size
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "battle.mp4"
        command = [program, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
                   "-s", f"{width}x{height}", "-r", f"{rate}", "-i", "-", "-c:v", "libx264",
                   "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart",
                   str(path)]  # fmt: skip
        pixels = (image.tobytes() for image in _images(painter, places, tell))
        problem = _feed(command, pixels)
        if problem:
            raise AnimationError(f"ffmpeg failed: {problem}")
        return path.read_bytes()


def require_ffmpeg() -> str:
    """Its path.

    Raises:
        AnimationError: it is not installed.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise AnimationError(
            "an .mp4 needs ffmpeg, which is not on the PATH: install it "
            "(Debian: apt-get install ffmpeg), or name a .gif instead"
        )
    return program


def _feed(command: list[str], chunks: Iterator[bytes]) -> str:
    """Run a program on these; what it complains of, "" if it succeeds."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None
        try:
            with process.stdin:
                for chunk in chunks:
                    process.stdin.write(chunk)
        except BrokenPipeError:
            pass  # it has ended early, and said why
        failed = process.wait() != 0
        errors.seek(0)
        words = errors.read().decode(errors="replace").strip().splitlines()
    return (words[-1] if words else "it did not say why") if failed else ""


def _images(painter: Painter, places: list[float], tell: Tell) -> Iterator[Image.Image]:
    for i, place in enumerate(places, 1):
        yield painter.draw(place)
        tell(i, len(places))


def _palette(painter: Painter, places: list[float]) -> Image.Image:
    """One palette for all images: nothing flickers. The colours that mean something, as they are,
    and shades between them that some of the images need most."""
    chosen = [places[i * (len(places) - 1) // (N_SAMPLES - 1)] for i in range(N_SAMPLES)]
    width, height = painter.size
    sheet = Image.new("RGB", (width, height * N_SAMPLES))
    for i, place in enumerate(chosen):
        sheet.paste(painter.draw(place), (0, i * height))
    exact = [c for color in COLORS.values() for c in ImageColor.getrgb(color)[:3]]
    n_shades = N_COLORS - len(exact) // 3
    method, dither = Image.Quantize.MEDIANCUT, Image.Dither.NONE
    shades = sheet.quantize(n_shades, method=method, dither=dither).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(exact + shades[: 3 * n_shades])
    return palette
