"""The report of made-up runs, whose numbers are worked out by hand."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.browser import Page, open_browser
from tests.venvs import ROOT
from training.config import load_preset, save_yaml, with_values
from training.experiment.scripted import ScriptedConfig, write_evaluation
from training.report.__main__ import main
from training.report.page import notes_to_html
from training.report.reference import load_reference
from training.report.results import ReportError
from training.run_folder import RunFolder
from training.train import choose_run


def write_run(path: Path, map_name: str, algo: str, seed: int, wins: tuple[float, ...],
              speed: float = 10.0, **values: Any) -> None:  # fmt: skip
    """100 steps, with tests at 50, 95 and 100."""
    path.mkdir(parents=True)
    about = {"map_name": map_name, "algo": algo, "seed": seed, "t_max": 100, **values}
    save_yaml(with_values(load_preset("tuned"), about, "test"), path / "config.yaml")
    rows = [
        {"t_env": t, "test_battle_won_mean": won, "test_battle_won_ci95": [0.0, 1.0],
         "confirm_battle_won_mean": 1.0, "seconds": t / speed}
        for t, won in zip((50, 95, 100), wins, strict=False)
    ]  # fmt: skip
    reports: list[dict[str, Any]] = [{"t_env": 64, "return_mean": 3.0, "seconds": 6.4}]
    lines = [json.dumps(row) + "\n" for row in rows[:1] + reports + rows[1:]]
    (path / "metrics.jsonl").write_text("".join(lines))


def write_runs(folder: Path) -> Path:
    """Two maps, two algorithms, three seeds; and a policy that does not learn on one map."""
    write_run(folder / "3m-qmix-1", "3m", "qmix", 1, (0.5, 0.7, 0.9))
    write_run(folder / "3m-qmix-2", "3m", "qmix", 2, (0.6, 0.8, 1.0), 8.0)
    write_run(folder / "3m-qmix-3", "3m", "qmix", 3, (0.7, 1.0, 1.0), 5.0)
    for seed in (1, 2, 3):
        write_run(folder / f"3m-vdn-{seed}", "3m", "vdn", seed, (0.1 * seed,) * 3)
        write_run(folder / f"2s3z-qmix-{seed}", "2s3z", "qmix", seed, (0.6,) * 3)
        write_run(folder / f"2s3z-vdn-{seed}", "2s3z", "vdn", seed, (0.4,) * 3)
    scripted = RunFolder(folder / "3m-heuristic-1")
    scripted.path.mkdir()
    result = {"return_mean": 9.0, "return_std": 1.0, "win_rate": 0.75, "ep_length_mean": 20.0,
              "dead_allies_mean": 1.0, "dead_enemies_mean": 2.0, "win_rate_ci95": (0.72, 0.78),
              "steps_per_second": 99.0}  # fmt: skip
    write_evaluation(scripted, ScriptedConfig("heuristic", "3m", 1), result, 4.0)
    (folder / "3m-qmix-1" / "software.yaml").write_text("torch: 2.13.0\nnumpy: 2.4.6\n")
    (folder / "logs").mkdir()
    return folder


REFERENCE = """
title: A paper
maps:
  3m:
    qmix: {percent: 95, source: Table 1}
    vdn: {says: far below QMIX, source: section 6}
  2s3z:
    iql: {percent: 10, says: about, source: Table 1}
  5m:
    qmix: {percent: 10, source: Table 1}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "paper.yaml").write_text(REFERENCE)
    (folder / "notes.md").write_text("# Why\nSmall <maps>.\n\n- one `a<b`\n- two\n")
    flags = [str(write_runs(folder / "runs")), "--title", "Ours & theirs"]
    flags += ["--reference", str(folder / "paper.yaml"), "--notes", str(folder / "notes.md")]
    assert main([*flags, "--out", str(folder / "out")]) == 0
    # Once more, by a process of its own.
    command = [sys.executable, "-m", "training.report", *flags, "--out", str(folder / "again")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "out" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(row: dict[str, str], *names: str) -> list[float]:
    return [float(row[name]) for name in names]


def test_final_win_rates(made: Path) -> None:
    rows = table(made, "final")
    assert [(row["map"], row["variant"]) for row in rows] == [
        *(("3m", "qmix"), ("3m", "vdn"), ("3m", "heuristic")),
        *(("2s3z", "qmix"), ("2s3z", "vdn")),
    ]
    # Finals 0.8, 0.9, 1.0: the means of the tests at 95 and 100. Whole runs took 10, 12.5, 20 s.
    columns = ("median", "q25", "q75", "iqm", "ci95_low", "ci95_high", "seeds", "seconds_median")
    assert numbers(rows[0], *columns) == [0.9, 0.85, 0.95, 0.9, 0.8, 1.0, 3, 12.5]
    assert numbers(rows[1], *columns[:6]) == [0.2, 0.15, 0.25, 0.2, 0.1, 0.3]
    # Of one that does not learn: the interval over its battles.
    assert numbers(rows[2], "median", "ci95_low", "ci95_high") == [0.75, 0.72, 0.78]


def test_over_all_maps_only_those_that_played_all(made: Path) -> None:
    qmix, vdn = table(made, "across-maps")
    # QMIX: 0.6 0.6 0.6 0.8 0.9 1.0; without one off each end (0.6 + 0.6 + 0.8 + 0.9) / 4.
    assert (qmix["variant"], *numbers(qmix, "iqm", "median", "runs")) == ("qmix", 0.725, 0.7, 6)
    # VDN: 0.1 0.2 0.3 0.4 0.4 0.4; (0.2 + 0.3 + 0.4 + 0.4) / 4.
    assert (vdn["variant"], *numbers(vdn, "iqm", "median", "runs")) == ("vdn", 0.325, 0.35, 6)
    low, high = numbers(qmix, "ci95_low", "ci95_high")
    # All of 3m at 0.8 gives 0.7, all at 1.0 gives 0.8; each in 1 of 27 resamples.
    assert (low, high) == (0.7, 0.8)


def test_times_to_a_win_rate(made: Path) -> None:
    rows = {(r["map"], r["variant"], r["win_rate"]): r for r in table(made, "times")}
    columns = ("env_steps", "seconds", "seeds_there", "seeds")
    assert numbers(rows["3m", "qmix", "0.5"], *columns) == [50, 6.25, 3, 3]
    # Seed 1 at 100 after 10 s, seed 2 at 95 after 11.875 s, seed 3 at 95 after 19 s.
    assert numbers(rows["3m", "qmix", "0.8"], *columns) == [95, 11.875, 3, 3]
    # Seed 1 never, seed 2 at 100 after 12.5 s, seed 3 at 95 after 19 s.
    assert numbers(rows["3m", "qmix", "0.95"], *columns) == [100, 19, 2, 3]
    never = rows["3m", "vdn", "0.5"]
    assert [never[name] for name in columns] == ["", "", "0", "3"]
    assert not any(key[1] == "heuristic" for key in rows)


def test_curves_are_medians_and_quartiles_of_tests(made: Path) -> None:
    rows = [r for r in table(made, "curves") if (r["map"], r["variant"]) == ("3m", "qmix")]
    columns = ("t_env", "q25", "median", "q75")
    assert [numbers(row, *columns) for row in rows] == [
        [50, 0.55, 0.6, 0.65],
        [95, 0.75, 0.8, 0.9],
        [100, 0.95, 1.0, 1.0],
    ]


def test_published_numbers_stand_beside_ours(made: Path) -> None:
    rows = {(row["map"], row["variant"]): row for row in table(made, "published")}
    assert numbers(rows["3m", "qmix"], "ours", "published", "difference") == [0.9, 0.95, -0.05]
    vdn = rows["3m", "vdn"]
    assert (vdn["published"], vdn["says"], vdn["source"]) == ("", "far below QMIX", "section 6")
    assert [*rows] == [("3m", "qmix"), ("3m", "vdn"), ("2s3z", "iql")]  # 5m was not played
    assert rows["2s3z", "iql"]["ours"] == ""


def test_every_run_has_its_command_and_what_it_ran_on(made: Path) -> None:
    rows = table(made, "runs")
    assert len(rows) == 13
    first = rows[0]
    assert first["software"] == "numpy 2.4.6, torch 2.13.0"
    assert first["command"] == "python -m training.train --preset tuned --map 3m --env-steps 100"
    _, config, _ = choose_run(first["command"].split()[3:])
    assert config == RunFolder(made / "runs" / "3m-qmix-1").load_config()
    hashes = {(row["map"], row["variant"]): set[str]() for row in rows}
    for row in rows:
        hashes[row["map"], row["variant"]].add(row["settings_sha256"])
    assert {len(found) for found in hashes.values()} == {1}
    assert len(set.union(*hashes.values())) == 5


def test_the_same_metrics_give_the_same_bytes(made: Path) -> None:
    files = {path.name: path.read_bytes() for path in (made / "out").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (made / "again").iterdir()}
    assert {"report.html", "report.md", "3m.png", "2s3z.png", "across-maps.png"} < set(files)
    assert files["3m.png"].startswith(b"\x89PNG")
    text = files["report.md"].decode()
    assert "| 3m | QMIX | 90.0\u00a0% | 85.0\u00a0–\u00a095.0 | 90.0\u00a0% |" in text
    assert "**Few seeds: 3 for each algorithm and map." in text


def test_what_is_not_finished_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "3m-qmix-1", "3m", "qmix", 1, (0.5, 0.7))
    flags = [str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(flags) == 1
    assert "no run is finished" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    write_run(tmp_path / "3m-qmix-2", "3m", "qmix", 2, (0.5, 0.7, 0.9))
    assert main(flags) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Not finished, and left out: 3m-qmix-1." in text
    # One seed: no interval. One map: no table over maps.
    assert "| 3m | QMIX | 80.0\u00a0% | 80.0\u00a0–\u00a080.0 | 80.0\u00a0% | – | 1 |" in text
    assert not (tmp_path / "out" / "across-maps.csv").exists()


def test_of_an_experiment_only_its_own_runs_are_shown(tmp_path: Path) -> None:
    for variant in ("qmix", "vdn"):
        write_run(tmp_path / f"runs/3m-{variant}-1", "3m", variant, 1, (0.5, 0.7, 0.9))
    file = tmp_path / "one.yaml"
    file.write_text("{title: VDN alone, maps: {3m: 100}, seeds: [1], variants: {vdn: null}}")
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--experiment", str(file), "--out", str(out)]) == 0
    text = (out / "report.md").read_text()
    assert text.startswith("# VDN alone")
    assert "| 3m | VDN |" in text
    assert "QMIX" not in text
    file.write_text("{title: 7}")
    assert main([str(tmp_path / "runs"), "--experiment", str(file), "--out", str(out)]) == 1


def test_runs_that_cannot_be_compared_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*paths: Path) -> str:
        assert main([*map(str, paths), "--out", str(tmp_path / "out")]) == 1
        return " ".join(capsys.readouterr().err.split())

    one, other = tmp_path / "a", tmp_path / "b"
    wins = (0.5, 0.7, 0.9)
    write_run(one / "3m-qmix-1", "3m", "qmix", 1, wins)
    write_run(other / "3m-qmix-1", "3m", "qmix", 1, wins)
    assert "are runs of one variant and seed" in refused(one, other)
    write_run(other / "3m-qmix-2", "3m", "qmix", 2, wins, lr=0.1)
    said = refused(one, other / "3m-qmix-2")
    assert "differ in more than the seed (lr)" in said
    (other / "3m-qmix-2").rename(other / "3m-fast-2")  # a name of its own
    assert main([str(one), str(other / "3m-fast-2"), "--out", str(tmp_path / "out")]) == 0
    assert "| 3m | fast |" in (tmp_path / "out" / "report.md").read_text()
    assert "nowhere: no run here" in refused(tmp_path / "nowhere")
    (one / "3m-qmix-1" / "config.yaml").write_text("lrr: 1\n")
    assert "unknown setting 'lrr'; did you mean 'lr'?" in refused(one)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maps: {}", "needs a title"),
        ("title: A\nmap: {}", "unknown key 'map'; did you mean 'maps'?"),
        ("title: A\nmaps: {3m: {qmix: {percent: 95}}}", "3m.qmix: a number without a source"),
        ("title: A\nmaps: {3m: {qmix: {percent: 950, source: B}}}", "between 0 and 100, not 950"),
        ("title: A\nmaps: {3m: {qmix: {source: B}}}", "says neither"),
        ("title: A\nmaps: {3m: {qmix: {persent: 9}}}", "'persent'; did you mean 'percent'?"),
        ("title: A\nmaps: {3m: {qmix: 95}}", "3m.qmix: expected percent or says, and source"),
        ("title: [", "not YAML"),
    ],
)
def test_a_mistake_in_published_numbers_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text(text)
    with pytest.raises(ReportError) as error:
        load_reference(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("reference-*.yaml")), ids=str)
def test_the_published_numbers_kept_here_are_sound(path: Path) -> None:
    reference = load_reference(path)
    counted = sum(len(algos) for algos in yaml.safe_load(path.read_text())["maps"].values())
    assert sum(len(algos) for algos in reference.maps.values()) == counted > 10


def test_notes_are_text_but_for_a_little_markdown() -> None:
    html = notes_to_html("# Why\nA <b> & `c<d`.\nSame.\n\n- one\n- two\n  more\n")
    assert html == (
        "<h2>Why</h2>\n<p>A &lt;b&gt; &amp; <code>c&lt;d</code>. Same.</p>\n"
        "<ul><li>one</li><li>two\n  more</li></ul>"
    )
    assert notes_to_html("\n") == ""


@pytest.fixture(scope="module")
def page(made: Path) -> Iterator[Page]:
    with open_browser() as opened:
        opened.open((made / "out" / "report.html").as_uri())
        yield opened


def test_the_page_stands_alone_in_a_browser(page: Page, made: Path) -> None:
    assert page.requests == [(made / "out" / "report.html").as_uri()]
    assert page.problems == []
    assert page.run("document.title") == "Ours & theirs"
    assert page.run("document.querySelectorAll('figure svg').length") == 3
    text = page.run("document.body.innerText")
    for shown in ("Small <maps>.", "a<b", "Few seeds", "far below QMIX", "interquartile mean"):
        assert shown in text
    assert page.run("document.querySelectorAll('#final tbody tr').length") == 5
    cells = page.run("[...document.querySelector('#final tbody tr').cells].map(c => c.innerText)")
    assert cells[:3] == ["3m", "QMIX", "90.0\u00a0%"]


def test_the_page_can_be_read_by_everybody(page: Page) -> None:
    labels = page.run(
        "[...document.querySelectorAll('figure')].map(f => f.getAttribute('aria-label'))"
    )
    assert all("QMIX" in label for label in labels)
    ids = page.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)
    assert page.run("document.documentElement.lang") == "en"
    # Nothing is wider than the window, and a curve is really drawn.
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    picture = page.screenshot("figure")
    colors = {color for _, color in picture.getcolors(picture.width * picture.height) or []}
    assert (0x00, 0x72, 0xB2) in colors
    svg = page.run("document.querySelector('figure svg').outerHTML")
    assert re.search(r"clip-path=\"url\(#3m-", svg)
