"""The command: what it writes, what it refuses, and pictures that can be opened."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from tests.training.showcase import kinds, showcase
from training.animation import AnimationError, require_ffmpeg, to_gif, to_mp4
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.frames import Battle, read_battle
from training.evaluate import Command as EvaluateCommand
from training.evaluate import run as evaluate
from training.graph_policy import GraphPolicy
from training.looks import COLORS, SHAPES
from training.networks.agent import DRQN
from training.onnx_graph import build_graph
from training.picture import Painter
from training.render import Command, RenderError, play, run, write
from training.rollout import AgentPolicy, Policy

MODEL = Path(__file__).parents[2] / "models" / "3s5z" / "1"


def silent(*_: object) -> None: ...


def count(image: Image.Image, color: str) -> int:
    """Pixels of exactly this colour."""
    wanted = tuple(int(COLORS[color][i : i + 2], 16) for i in (1, 3, 5))
    return sum(n for n, value in image.getcolors(1 << 24) or [] if value == wanted)


def short(n_steps: int) -> Battle:
    """The showcase's first steps."""
    battle = showcase()
    frames = [*battle.frames[:n_steps], dataclasses.replace(battle.frames[n_steps], end="time")]
    return Battle(battle.header, frames)


def test_every_type_of_every_map_has_a_shape_of_its_own() -> None:
    assert {unit.type for unit in kinds()} == set(SHAPES)
    assert len(set(SHAPES.values())) == len(SHAPES)


def test_the_picture_shows_sides_lines_and_choices() -> None:
    battle = showcase()
    plain, followed = Painter(battle), Painter(battle, agent=2)
    image = plain.draw(0)
    assert image.size == plain.size
    assert min(count(image, "ally"), count(image, "enemy")) > 1000
    assert plain.draw(12).tobytes() != image.tobytes()
    assert plain.draw(12).tobytes() != plain.draw(12.5).tobytes()
    wider = followed.draw(12)
    assert wider.width == image.width + 240
    assert count(wider, "panel") > 10_000
    assert count(wider, "heal") > count(image, "heal")  # nobody heals at the beginning


def test_the_gif_has_two_images_a_step_and_holds_the_last() -> None:
    told: list[tuple[int, int]] = []
    content = to_gif(short(4), 0, lambda done, whole: told.append((done, whole)))
    assert told == [(i, 9) for i in range(1, 10)]
    with Image.open(io.BytesIO(content)) as gif:
        assert gif.format == "GIF"
        assert getattr(gif, "n_frames", 0) == 9
        assert gif.info["loop"] == 0
        gif.seek(8)
        assert gif.info["duration"] == 2000
        last = gif.convert("RGB")
    exact = Painter(short(4), 0).draw(4)
    drawn, shown = (np.asarray(image, dtype=np.int64) for image in (exact, last))
    apart = np.abs(drawn - shown).max(2)
    assert apart.mean() < 3  # of 255: the palette is all that is lost
    for color in ("ally", "enemy", "health", "hurt", "dying", "shield", "panel"):
        here = (drawn == ImageColor.getrgb(COLORS[color])[:3]).all(2)
        assert apart[here].max(initial=0) < 16, color


def test_a_long_battle_has_one_image_a_step() -> None:
    battle = showcase()
    frames = [dataclasses.replace(battle.frames[3], t=t) for t in range(81)]
    with Image.open(io.BytesIO(to_gif(Battle(battle.header, frames), None, silent))) as gif:
        shown = [gif.info["duration"]]
        while gif.tell() + 1 < getattr(gif, "n_frames", 0):
            gif.seek(gif.tell() + 1)
            shown.append(gif.info["duration"])
    # Pillow joins images that do not differ into one that stands longer.
    assert sum(shown) == 80 * 120 + 2000


def test_a_film() -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg on the PATH")
    content = to_mp4(short(2), None, silent)
    assert content[4:8] == b"ftyp"


def test_a_film_without_ffmpeg_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AnimationError, match=r"apt-get install ffmpeg.*\.gif"):
        require_ffmpeg()


def test_all_three_files_of_the_battle_that_evaluation_plays(tmp_path: Path) -> None:
    paths = tuple(tmp_path / "new" / f"b.{suffix}" for suffix in ("gif", "html", "jsonl"))
    battle, written = run(Command("closest", "3m", seed=5, battle=1, output=paths), silent)
    assert sorted(os.listdir(tmp_path / "new")) == ["b.gif", "b.html", "b.jsonl"]
    assert tuple(written) == paths
    kept = read_battle(paths[2])
    assert kept == Battle(battle.header, list(battle.frames))
    both = [evaluate(EvaluateCommand("closest", "3m", n, seed=5)) for n in (1, 2)]
    second = 2 * both[1].return_mean - both[0].return_mean
    assert kept.frames[-1].sum == pytest.approx(second, abs=2e-3)
    assert 2 * both[1].ep_length_mean - both[0].ep_length_mean == kept.frames[-1].t
    n_images = (len(kept.frames) - 1) * 2 + 1
    with Image.open(paths[0]) as gif:
        assert getattr(gif, "n_frames", 0) == n_images
    again = tmp_path / "again.html"
    run(Command(frames=paths[2], output=(again,)), silent)
    assert again.read_text() == paths[1].read_text()


def test_a_trained_agent_shows_the_values_it_chose_by(tmp_path: Path) -> None:
    battle, _ = run(Command(str(MODEL), "3s5z", seed=7, output=(tmp_path / "b.jsonl",)), silent)
    assert battle.header.q_note == ""
    for frame in battle.frames[:-1]:
        assert frame.q is not None
        assert frame.a is not None
        for values, mask, action in zip(frame.q, frame.av, frame.a, strict=True):
            best = max(value for value, ok in zip(values, mask, strict=True) if ok == "1")
            assert values[action] == best
    assert battle.frames[-1].q is None


def test_the_network_and_its_graph_show_the_same_values() -> None:
    torch.manual_seed(0)
    env = SkirmishEnv("3m", 1, seed=2)
    agent = DRQN(env.info.obs_dim, env.info.n_actions, env.info.n_agents, 8)
    weights = {name: value.numpy() for name, value in agent.state_dict().items()}
    model = build_graph(weights, env.info.n_agents, env.info.n_actions, {})
    policies: list[Policy] = [
        AgentPolicy(agent, 1),
        GraphPolicy(model.SerializeToString(), 8, env),
    ]
    network, graph = (play(env, policy, "it", 3, silent) for policy in policies)
    assert len(network.frames) == len(graph.frames)
    for a, b in zip(network.frames[:-1], graph.frames[:-1], strict=True):
        assert a.q is not None
        assert b.q is not None
        assert torch.allclose(torch.tensor(a.q), torch.tensor(b.q), atol=2e-4)
        assert a.a == b.a


@pytest.mark.parametrize(("policy", "words"), [("random", "scripted"), ("heuristic", "inside")])
def test_scripted_players_say_why_they_show_no_values(
    policy: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "b.html"
    battle, _ = run(Command(policy, "3m", seed=1, agent=0, output=(path,)), silent)
    assert words in battle.header.q_note
    assert battle.header.q_note in path.read_text().replace("\\u0026", "&")
    assert all(frame.q is None for frame in battle.frames)
    Painter(battle, 0).draw(3)  # says it too


def command_line(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.render", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_by_default_three_files_beside_each_other(tmp_path: Path) -> None:
    done = command_line(
        "--map", "3m", "--policy", "random", "--seed", "3", "--battle", "2", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "renders").iterdir())
    assert names == [f"3m-random-3-2.{suffix}" for suffix in ("gif", "html", "jsonl")]
    assert done.stdout.startswith("random on 3m, battle 2 of seed 3: ")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--map", "3s5y", "--policy", "random"), "unknown map '3s5y'; did you mean 3s5z"),
        (("--map", "3m", "--policy", str(MODEL)), "was made for 3s5z"),
        (("--map", "3m", "--policy", "randon"), "did you mean 'random'?"),
        (("--map", "3m", "--policy", "random", "--agent", "3"), "3m has agents 0 to 2"),
        (("--policy", "random", "--output", "b.png"), "b.png: a file's suffix says"),
        (("--policy", "random", "--output", "file/b.gif"), "file/b.gif: cannot be written"),
        (("--map", "3m"), "--policy is missing"),
        (("--frames", "file"), "file: line 1"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("nonsense")
    done = command_line(*arguments, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("training.render: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.gif"
    write(path, b"old")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(RenderError, match=r"b\.gif: cannot be written: No space left"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
