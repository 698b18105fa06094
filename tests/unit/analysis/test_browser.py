"""The page in a real browser: headless Chromium, from file://, with a list of everything that it asks for."""

from __future__ import annotations

import random
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import sync_playwright

from deploy.analysis.page.page import Drawings, page
from deploy.analysis.page.words import headlines
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.report import write_report
from deploy.analysis.statistics.conditions import analyse
from flcommon.delay import Constant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"]
DESKTOP, PHONE = (1280, 900), (390, 844)
ALL_DRAWN = "() => [...document.querySelectorAll('.chart')].every(each => each.dataset.drawn)"
OVERFLOW = "() => document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@dataclass
class Visit:
    """A page that is open, what it complained of, and the addresses that it asked for beside its own."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def marks(self, figure: str, role: str) -> int:
        return self.page.locator(f"#{figure} [aria-roledescription='{role}']").count()

    def column(self, table: str, number: int) -> list[str]:
        rows = self.page.locator(f"#{table} tbody tr:not([hidden])")
        cells = [row.locator("th, td").nth(number) for row in rows.all()]
        return [cell.inner_text().replace("\N{NO-BREAK SPACE}", " ") for cell in cells]

    def head(self, table: str, number: int) -> Locator:
        return self.page.locator(f"#{table} thead th").nth(number)

    def show(self, condition: str) -> None:
        """Choose a condition, and wait until every chart that can has followed."""
        self.page.locator("#shown-condition").select_option(condition)
        self.page.wait_for_function(
            """condition => {
              const { specs } = JSON.parse(document.getElementById("charts").textContent);
              return Object.entries(specs).every(([name, { params = [] }]) =>
                !params.some(param => param.name === "shown_condition")
                || document.getElementById(name).dataset.drawn === condition);
            }""",
            arg=condition,
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, file: Path, size: tuple[int, int] = DESKTOP, **options: Any) -> Iterator[Visit]:
    """Open a page in a profile of its own, from file://."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    context.set_default_timeout(15_000)
    seen = Visit(context.new_page())
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("request", lambda request: seen.asked.append(request.url))
    seen.page.goto(file.as_uri())
    seen.asked.remove(file.as_uri())
    try:
        yield seen
    finally:
        context.close()


def without_charts(run: Path) -> Path:
    """Write the page alone: charts take seconds."""
    analysis = analyse(read_dataset(run))
    file = run / "index.html"
    file.write_text(page(analysis, headlines(analysis), Drawings()), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> Path:
    """The page of 18 conditions."""
    rng = random.Random(1)  # noqa: S311 - noise for a picture
    sizes = [Constant(0.3), Constant(0.4), Constant(0.5)]
    trials = kit.sweep(sizes, 1, 3, lambda: rng.gauss(0, 1))
    return write_report(kit.FakeRun(tmp_path_factory.mktemp("sweep"), trials).write()).page


@pytest.fixture(scope="module")
def opened(browser: Browser, index: Path) -> Iterator[Visit]:
    """That page on a desktop, with all its charts drawn; tests leave it as they found it."""
    with visit(browser, index) as seen:
        seen.page.wait_for_function(ALL_DRAWN)
        yield seen


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_offline_without_complaint(
    browser: Browser, index: Path, size: tuple[int, int], scheme: str
) -> None:
    """18 trials: 18 points, 3 solid and 3 dashed lines; a silent console; not one request; nothing wider than it."""
    with visit(browser, index, size, color_scheme=scheme) as seen:
        seen.page.wait_for_function(ALL_DRAWN)
        assert (seen.complaints, seen.asked) == ([], [])
        assert seen.marks("figure-4", "circle") == 18
        assert seen.marks("figure-4", "line mark") == 6
        assert seen.page.evaluate(OVERFLOW) == 0
        label = seen.page.locator("#figure-4").get_attribute("aria-label")
        assert label is not None
        assert label.startswith("Training time against delay probability. From")


def test_colors_follow_the_scheme_and_what_was_chosen_stays(opened: Visit) -> None:
    """Whoever turns dark mode on in the evening sees readable charts, and the condition that was shown before."""
    ink = {"light": "rgb(26, 29, 33)", "dark": "rgb(232, 234, 237)"}
    opened.show("p = 0.2, d = 0.3 s")
    for scheme in ("dark", "light"):
        opened.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type] - one of the two
        title = opened.page.locator("#figure-4 .role-axis-title text").first
        assert title.evaluate("each => getComputedStyle(each).fill") == ink[scheme]
        assert opened.page.locator("#shown-condition").input_value() == "p = 0.2, d = 0.3 s"
    opened.show("all")


def test_pointing_at_a_trial_shows_its_numbers(opened: Visit) -> None:
    """The tooltip holds the training time of the point, to the hundredth of a second."""
    point = opened.page.locator("#figure-4 [aria-roledescription='circle']").first
    point.hover()
    tip = opened.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    said = point.get_attribute("aria-label") or ""
    time_s = float(said.split("training time (s): ")[1].split(";")[0])
    assert f"{time_s:.2f}" in tip.inner_text()


def test_tables_sort_both_ways_by_value_with_the_keyboard_too(opened: Visit) -> None:
    """Numbers sort as numbers: 10 after 9; what is not known comes last, whichever way."""
    for keys in ("click", "Enter"):
        button = opened.head("conditions-table", 5).get_by_role("button")
        orders = []
        for way in ("ascending", "descending"):
            button.click() if keys == "click" else button.press(keys)
            assert opened.head("conditions-table", 5).get_attribute("aria-sort") == way
            orders.append([float(cell) for cell in opened.column("conditions-table", 5)])
        assert orders[0] == sorted(orders[0])
        assert orders[1] == sorted(orders[0], reverse=True)
        assert len(set(orders[0])) > 9
        opened.head("conditions-table", 0).get_by_role("button").click()


def test_unknown_values_sort_last(browser: Browser, tmp_path: Path, kit: ModuleType) -> None:
    trials = [
        kit.FakeTrial(
            kit.plan(number, settings={"run_config.lr": number}), [kit.simple_round(1.0 + number)], ended=ended
        )
        for number, ended in enumerate((True, False, True))
    ]
    with visit(browser, without_charts(kit.FakeRun(tmp_path, trials).write())) as seen:
        for order in (["1.00", "3.00", "–"], ["3.00", "1.00", "–"]):  # noqa: RUF001 - an en dash
            seen.head("conditions-table", 4).get_by_role("button").click()
            assert seen.column("conditions-table", 4) == order


def test_a_condition_can_be_shown_alone(opened: Visit) -> None:
    """Its rows of every table, and its marks of every chart that has conditions; then all of them again."""
    opened.show("p = 1, d = 0.5 s")
    assert opened.column("conditions-table", 1) == ["0.5 s"]
    opened.show("all")
    assert len(opened.column("conditions-table", 1)) == 18


def test_the_contents_lead_to_every_section(browser: Browser, index: Path) -> None:
    """On a phone too: a list that opens, closes once something was chosen, and brings it into sight."""
    with visit(browser, index, PHONE) as seen:
        links = seen.page.locator("#contents a")
        assert links.count() == seen.page.locator("main > section").count()
        seen.page.locator("#contents summary").click()
        seen.page.get_by_role("link", name="Problems").click()
        heading = seen.page.get_by_role("heading", name="Problems")
        assert not links.first.is_visible()
        box = heading.bounding_box()
        assert box is not None
        assert 0 < box["y"] < PHONE[1]


def test_a_print_shows_what_is_folded(opened: Visit) -> None:
    """And folds it again afterwards."""
    folded = opened.page.locator("main details").first
    for event, shown in (("beforeprint", True), ("afterprint", False)):
        opened.page.evaluate(f"() => dispatchEvent(new Event('{event}'))")
        assert folded.evaluate("each => each.open") is shown


def test_the_check_itself_notices_requests_and_errors(browser: Browser, tmp_path: Path) -> None:
    """A page that misbehaves is caught, so silence above means something."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><img src='http://x.invalid/a.png'><p style='width: 3000px'>wide<script>nonsense()</script>"
    )
    with visit(browser, bad) as seen:
        assert "http://x.invalid/a.png" in seen.asked
        assert any("nonsense is not defined" in line for line in seen.complaints)
        assert seen.page.evaluate(OVERFLOW) > 0
