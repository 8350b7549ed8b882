"""The page: one file, nothing fetched, and in a real browser it does what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.training.browser import Page, open_browser
from tests.training.showcase import N_STEPS, showcase
from training.looks import COLORS
from training.replay_page import to_page


class Embedded(HTMLParser):
    """What stands in the script elements, as a browser splits them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.addresses: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag == "script":
            self._inside = True
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


def test_nothing_in_the_page_leads_outside() -> None:
    page = to_page(showcase(), None)
    assert not re.search(r"https?:|wss?:|//[a-z0-9-]+\.|@import|url\(", page)
    assert Embedded(page).addresses == ["data:,"]


def test_no_name_breaks_out_of_the_data() -> None:
    evil = "x</script><script>alert(1)</script><!--&\u2028"
    found = Embedded(to_page(showcase(policy=evil), 1))
    assert len(found.scripts) == 2
    data = json.loads(found.scripts[0])
    assert data["header"]["policy"] == evil
    assert data["agent"] == 1
    assert len(data["frames"]) == N_STEPS + 1


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "battle.html"
    path.write_text(to_page(showcase(policy="<b>made up</b>"), None), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with open_browser() as page:
        yield page


@pytest.fixture
def page(browser: Page, address: str) -> Iterator[Page]:
    """The page at its beginning; nothing may have gone wrong or been fetched at the end."""
    browser.call("Page.navigate", url="about:blank")
    browser.requests.clear()
    browser.open(address)
    yield browser
    assert browser.problems == []
    assert {url.partition("#")[0] for url in browser.requests} <= {address, "data:,"}


def shown(page: Page) -> tuple[int, str]:
    step, agent = page.run("[Number(document.querySelector('#step').value), "
                           "document.body.dataset.agent]")  # fmt: skip
    return step, agent


def count(page: Page, color: str) -> int:
    """Pixels of the battlefield in exactly this colour."""
    image, rgb = page.screenshot("#field"), COLORS[color]
    wanted = tuple(int(rgb[i : i + 2], 16) for i in (1, 3, 5))
    return sum(n for n, value in image.getcolors(1 << 24) or [] if value == wanted)


def test_the_beginning(page: Page) -> None:
    assert shown(page) == (0, "")
    assert page.run("document.querySelector('#about').textContent").startswith("<b>made up</b>")
    colors = page.screenshot("#field").getcolors(1 << 24)
    assert colors is not None
    assert len(colors) > 100
    assert min(count(page, "ally"), count(page, "enemy")) > 500
    assert count(page, "heal") == 0


def test_the_scrubber_is_dragged(page: Page) -> None:
    before = page.screenshot("#field").tobytes()
    x, y, width, height = page.box("#scrubber")
    page.drag((x + 8, y + height / 2), (x + width / 2, y + height / 2))
    step, _ = shown(page)
    assert abs(step - N_STEPS / 2) <= 1
    assert page.run("document.querySelector('#return').value") == f"{0.5 * step:.2f}"
    assert page.screenshot("#field").tobytes() != before
    assert f"step={step}" in page.run("location.hash")


def test_keys_step_and_choose(page: Page) -> None:
    for key, step in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", N_STEPS)):
        page.press(key)
        assert shown(page)[0] == step
    assert page.run("document.querySelector('#outcome').textContent") == "lost"
    page.press("Home")
    page.press("a")
    page.press("a")
    assert shown(page) == (0, "1")


def test_it_plays_to_the_end_and_stops(page: Page) -> None:
    for _ in range(3):
        page.press("+")
    assert page.run("document.querySelector('#speed').value") == "8"
    page.press(" ")
    assert page.run("document.body.dataset.playing") == "true"
    page.wait_for(f"document.querySelector('#step').value === '{N_STEPS}'")
    assert page.run("document.body.dataset.playing") == "false"


def test_an_address_names_step_and_agent(page: Page, address: str) -> None:
    battle = showcase()
    page.open(f"{address}#step=12&agent=2")
    page.wait_for("document.querySelector('#step').value === '12'")
    assert shown(page) == (12, "2")
    rows = page.run(
        "[...document.querySelectorAll('#choices tr')]"
        ".map((row) => [row.className, ...[...row.cells].map((cell) => cell.textContent)])"
    )
    frame = battle.frames[12]
    assert frame.a is not None
    assert frame.q is not None
    assert len(rows) == len(battle.header.actions)
    assert [k for k, row in enumerate(rows) if row[0] == "chosen"] == [frame.a[2]]
    assert rows[6][1] == "heal 0"  # agent 2 is a medivac
    assert rows[8][3] == f"{frame.q[2][8]:.3f}"
    assert rows[0][0] == "closed"
    assert count(page, "heal") > 20


def test_a_click_chooses_the_unit(page: Page) -> None:
    x, y, _, _ = page.box("#field")
    left, top = page.run("[px(F[0].x[3]), py(F[0].y[3])]")
    page.drag((x + left, y + top), (x + left, y + top))
    assert shown(page) == (0, "3")
    assert page.run("document.querySelector('#who').textContent").startswith("agent 3 · ")
