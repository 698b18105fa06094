"""The page in a real browser: headless Chromium, from file://, with a list of everything that it asks for."""

from __future__ import annotations

import random
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl
import pytest
from playwright.sync_api import sync_playwright

from deploy.analysis.comparing import figures as comparing
from deploy.analysis.comparing.match import compare
from deploy.analysis.comparing.runs import read_runs
from deploy.analysis.comparing.write import page as comparing_page
from deploy.analysis.figures.catalogue import figures
from deploy.analysis.figures.render import on_page
from deploy.analysis.page.library import bundling
from deploy.analysis.page.page import STILL_LIMIT, Drawings, page
from deploy.analysis.page.sections import Picture
from deploy.analysis.page.words import headlines
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import analyse
from flcommon.delay import Constant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

    from playwright.sync_api import Browser, Locator, Page

    from deploy.analysis.figures.figure import Figure
    from deploy.analysis.statistics.conditions import Analysis

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"]
DESKTOP, TABLET, PHONE = (1280, 900), (800, 1100), (390, 844)
ALL_DRAWN = "() => [...document.querySelectorAll('.chart')].every(each => each.dataset.drawn)"
CUT_LEGENDS = """() => [...document.querySelectorAll(".chart")].flatMap(chart => {
  const whole = chart.querySelector("svg").getBoundingClientRect();
  return [...chart.querySelectorAll(".role-legend")].map(each => each.getBoundingClientRect())
    .filter(box => box.top < whole.top || box.left < whole.left || box.right > whole.right + 1)
    .map(() => chart.id);
})"""
FITTED = "() => [...document.querySelectorAll('.chart')].every(each => Number(each.dataset.width) === each.clientWidth)"
NEXT_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
LIBRARY_BYTES = 1_500_000
OVERFLOW = "() => document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@dataclass
class Visit:
    """A page that is open, what it complained of, and the addresses that it asked for beside its own."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def counted(self, figure: str, role: str) -> int:
        return self.page.locator(f"#{figure} [aria-roledescription='{role}']").count()

    def points(self, figure: str) -> Locator:
        """Return the points of a figure, whatever their shape."""
        return self.page.locator(f"#{figure} .mark-symbol.role-mark path")

    def column(self, table: str, name: str, *, folded: bool = False) -> list[str]:
        """Return what the rows that are shown have in a column, which is given by the start of its heading."""
        rows = self.page.locator(f"#{table} tbody tr:not([hidden])")
        cells = rows.locator(f":nth-child({self.place(table, name) + 1})")
        words = cells.all_text_contents() if folded else cells.all_inner_texts()
        return [word.replace("\N{NO-BREAK SPACE}", " ") for word in words]

    def place(self, table: str, name: str) -> int:
        heads = self.page.locator(f"#{table} thead th").all_text_contents()
        return next(place for place, head in enumerate(heads) if head.startswith(name))

    def head(self, table: str, name: str) -> Locator:
        return self.page.locator(f"#{table} thead th").nth(self.place(table, name))

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
def visit(
    browser: Browser, file: Path, size: tuple[int, int] = DESKTOP, init: str = "", **options: Any
) -> Iterator[Visit]:
    """Open a page in a profile of its own, from file://; `init` is a script that runs before its own."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    context.set_default_timeout(15_000)
    context.add_init_script(init)
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


def written(analysis: Analysis, file: Path, pictures: Sequence[Picture] = (), script: str = "") -> Path:
    """Write the page alone, without the figures' files, which take seconds."""
    drawings = Drawings(pictures=tuple(pictures), script=script)
    file.write_text(page(analysis, headlines(analysis), drawings), encoding="utf-8")
    return file


def pictures(found: Iterable[Figure]) -> list[Picture]:
    """Return figures for a page; what stands in for the drawn ones is as high as most are."""
    return [
        Picture(
            name=each.name,
            title=each.title,
            subtitle=each.subtitle,
            caption=each.caption,
            alt=each.alt,
            spec=on_page(each),
            svg='<svg height="300"></svg>',
        )
        for each in found
    ]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> Analysis:
    """18 conditions of 3 rounds."""
    rng = random.Random(1)  # noqa: S311 - noise for a picture
    sizes = [Constant(0.3), Constant(0.4), Constant(0.5)]
    trials = kit.sweep(sizes, 1, 3, lambda: rng.gauss(0, 1))
    return analyse(read_dataset(kit.FakeRun(tmp_path_factory.mktemp("sweep"), trials, whole=True).write()))


@pytest.fixture(scope="module")
def library() -> str:
    """The chart library."""
    with bundling() as script:
        return script()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, swept: Analysis, library: str) -> Path:
    """Their page, with 13 figures."""
    assert len(library) < LIBRARY_BYTES
    return written(swept, tmp_path_factory.mktemp("page") / "index.html", pictures(figures(swept)), library)


@pytest.fixture(scope="module")
def opened(browser: Browser, index: Path) -> Iterator[Visit]:
    """That page on a desktop, with all its charts drawn; tests leave it as they found it."""
    with visit(browser, index) as seen:
        seen.page.wait_for_function(ALL_DRAWN)
        yield seen


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (TABLET, "light"), (PHONE, "dark")])
def test_charts_are_drawn_offline_without_complaint(
    browser: Browser, index: Path, size: tuple[int, int], scheme: str
) -> None:
    """A silent console, not one request, nothing wider than the page, whole legends, words for who cannot see."""
    with visit(browser, index, size, color_scheme=scheme) as seen:
        seen.page.wait_for_function(ALL_DRAWN)
        assert (seen.complaints, seen.asked) == ([], [])
        assert seen.page.evaluate(OVERFLOW) == 0
        assert seen.page.evaluate(CUT_LEGENDS) == []
        label = seen.page.locator("#figure-4").get_attribute("aria-label")
        assert label is not None
        assert label.startswith("Training time against delay probability. From")


def test_legends_stay_whole_when_the_window_changes(opened: Visit) -> None:
    """A phone that is turned, an address bar that hides: charts are as wide as their boxes, and no legend is cut."""
    for width, height in (PHONE, (PHONE[0], 700), TABLET, DESKTOP):
        opened.page.set_viewport_size({"width": width, "height": height})
        opened.page.evaluate(NEXT_FRAMES)
        opened.page.wait_for_function(FITTED)
        assert opened.page.evaluate(CUT_LEGENDS) == []


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
    point = opened.points("figure-4").first
    point.hover()
    tip = opened.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    said = point.get_attribute("aria-label") or ""
    time_s = float(said.split("training time (s): ")[1].split(";")[0])
    assert f"{time_s:.2f}" in tip.inner_text()


def test_tables_sort_both_ways_by_value_with_the_keyboard_too(opened: Visit) -> None:
    """Numbers sort as numbers: 10 after 9; what is not known comes last, whichever way."""
    for keys in ("click", "Enter"):
        button = opened.head("conditions-table", "measured").get_by_role("button")
        orders = []
        for way in ("ascending", "descending"):
            button.click() if keys == "click" else button.press(keys)
            assert opened.head("conditions-table", "measured").get_attribute("aria-sort") == way
            orders.append([float(cell) for cell in opened.column("conditions-table", "measured")])
        assert orders[0] == sorted(orders[0])
        assert orders[1] == sorted(orders[0], reverse=True)
        assert len(set(orders[0])) > 9
        opened.head("conditions-table", "p").get_by_role("button").click()


def test_tables_fit_and_what_does_not_keeps_its_first_column(opened: Visit) -> None:
    """On a desktop all parts of a round are to be seen at once; on a phone the condition stays beside each number."""
    box = opened.page.get_by_role("region", name="Parts of a round by condition")
    assert box.evaluate("each => each.scrollWidth - each.clientWidth") == 0
    opened.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    assert box.evaluate("each => { each.scrollLeft = 400; return each.scrollLeft; }") == 400
    first = box.locator("tbody th").first
    assert abs((first.bounding_box() or {})["x"] - (box.bounding_box() or {})["x"]) < 1
    opened.page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
    opened.page.wait_for_function(FITTED)


def test_unknown_values_sort_last(browser: Browser, tmp_path: Path, kit: ModuleType) -> None:
    trials = [
        kit.FakeTrial(
            kit.plan(number, settings={"run_config.lr": number}), [kit.simple_round(1.0 + number)], ended=ended
        )
        for number, ended in enumerate((True, False, True))
    ]
    analysis = analyse(read_dataset(kit.FakeRun(tmp_path, trials).write()))
    with visit(browser, written(analysis, tmp_path / "index.html")) as seen:
        for order in (["1.00", "3.00", "–"], ["3.00", "1.00", "–"]):  # noqa: RUF001 - an en dash
            seen.head("conditions-table", "measured").get_by_role("button").click()
            assert seen.column("conditions-table", "measured") == order


def test_every_chart_has_the_marks_of_its_data(opened: Visit, swept: Analysis) -> None:
    """18 conditions, of 3 rounds each, on 3 clients: nothing is left out, nothing is blank."""
    delays = swept.dataset.tasks.filter(pl.col("delay_s") > 0).height
    assert opened.points("figure-4").count() == 18
    assert opened.counted("figure-4", "line mark") == 6
    assert opened.counted("figure-stragglers", "rect mark") == 18 * 3
    assert opened.points("figure-accuracy-rounds").count() == 18 * 3
    assert opened.counted("figure-compute", "bar") == 3
    assert opened.counted("figure-clocks", "area mark") == 3
    assert opened.points("figure-injected").count() == delays > 50
    names = opened.page.locator(".chart").evaluate_all("all => all.map(each => each.id)")
    assert len(names) == 13
    assert all(opened.page.locator(f"#{name} [aria-roledescription]").count() > 4 for name in names)


def test_a_condition_can_be_shown_alone(opened: Visit) -> None:
    """Its rows of every table, and its marks of every chart that has conditions; then all of them again."""
    looked = (("figure-account", "bar"), ("figure-stragglers", "rect mark"))
    before = [opened.counted(*each) for each in looked]
    opened.show("p = 1, d = 0.5 s")
    assert opened.column("conditions-table", "d") == ["0.5 s"]
    assert opened.page.locator("main").get_attribute("data-shown") == "p = 1, d = 0.5 s"
    assert set(opened.column("what-if-conditions", "condition", folded=True)) == {"p = 1, d = 0.5 s"}
    assert len(opened.column("account-clients", "client")) == 3
    assert [18 * opened.counted(*each) for each in looked] == before
    assert opened.points("figure-injected").count() == 3 * 3
    opened.show("all")
    assert len(opened.column("conditions-table", "d")) == 18
    assert opened.page.locator("main").get_attribute("data-shown") is None
    assert [opened.counted(*each) for each in looked] == before


def test_the_time_line_goes_along_with_the_condition_and_keeps_its_menu(opened: Visit) -> None:
    """Whoever then takes another trial from its menu sees that one."""
    menu = opened.page.locator("#figure-timeline select")
    for condition in ("p = 0, d = 0.4 s", "p = 1, d = 0.5 s"):
        opened.show(condition)
        assert menu.locator("option:checked").inner_text() == condition
    injected = opened.page.locator("#figure-timeline [aria-label*='what: injected']")
    assert injected.count() == 3 * 3
    menu.select_option(label="p = 0, d = 0.3 s")
    opened.page.wait_for_function("() => !document.querySelector(\"#figure-timeline [aria-label*='what: injected']\")")
    opened.show("all")


def test_the_contents_lead_to_every_section(opened: Visit) -> None:
    """On a phone too: a list that opens, closes once something was chosen, and brings it into sight."""
    opened.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    links = opened.page.locator("#contents a")
    assert links.count() == opened.page.locator("main > section").count()
    opened.page.locator("#contents summary").click()
    opened.page.get_by_role("link", name="Problems").click()
    box = opened.page.get_by_role("heading", name="Problems").bounding_box()
    assert not links.first.is_visible()
    assert box is not None
    assert 0 < box["y"] < PHONE[1]
    opened.page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})


def test_a_print_shows_what_is_folded(opened: Visit) -> None:
    """And folds it again afterwards."""
    folded = opened.page.locator("main details").first
    for event, shown in (("beforeprint", True), ("afterprint", False)):
        opened.page.evaluate(f"() => dispatchEvent(new Event('{event}'))")
        assert folded.evaluate("each => each.open") is shown


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType, library: str) -> Path:
    """The page of two runs, of six conditions and two repeats each."""
    rng = random.Random(1)  # noqa: S311 - noise for a picture
    runs = []
    for name in ("bench-1", "bench-2"):
        run = kit.FakeRun(
            tmp_path_factory.mktemp(name), kit.sweep([Constant(0.3)], 2, 2, lambda: rng.gauss(0, 1)), lab=name
        )
        manifest = msgspec.structs.replace(run.manifest, campaign=name)
        (run.write() / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        runs.append(run.folder)
    found = compare(read_runs(runs))
    drawings = Drawings(pictures=tuple(pictures(comparing.figures(found))), script=library)
    file: Path = tmp_path_factory.mktemp("compared") / "compare.html"
    file.write_text(comparing_page(found, ["What was found."], drawings), encoding="utf-8")
    return file


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "dark"), (PHONE, "light")])
def test_a_comparison_is_drawn_offline_without_complaint(
    browser: Browser, comparison: Path, size: tuple[int, int], scheme: str
) -> None:
    """Points and intervals of both runs, whole legends, and the filter."""
    with visit(browser, comparison, size, color_scheme=scheme) as seen:
        seen.page.wait_for_function(ALL_DRAWN)
        assert (seen.complaints, seen.asked) == ([], [])
        assert seen.page.evaluate(OVERFLOW) == 0
        assert seen.page.evaluate(CUT_LEGENDS) == []
        for figure, count in (("figure-compare", 12), ("figure-ratio", 6)):
            assert (seen.counted(figure, "circle"), seen.counted(figure, "rule mark")) >= (count, count)
        seen.show("p = 0.4, d = 0.3 s")
        assert seen.counted("figure-compare", "circle") == 2
        assert seen.column("time-table", "run") == ["bench-1", "bench-2"]


def test_a_chart_is_drawn_when_it_is_about_to_be_seen(browser: Browser, comparison: Path) -> None:
    """Even in a browser that is never idle; until then, nothing is drawn that is far away."""
    never = "window.requestIdleCallback = window.setTimeout = () => 0"
    with visit(browser, comparison, (PHONE[0], 300), init=never) as seen:
        chart = seen.page.locator("#figure-ratio")
        assert chart.get_attribute("data-drawn") is None
        chart.evaluate("each => each.scrollIntoView()")
        seen.page.wait_for_function("() => document.getElementById('figure-ratio').dataset.drawn")
        assert seen.counted("figure-ratio", "circle") == 6


def test_a_large_run_stays_small(tmp_path: Path, kit: ModuleType) -> None:
    """18 conditions, 30 rounds, 10 clients: the page, with each still picture as large as may be, is below 15 MB."""
    rng = random.Random(1)  # noqa: S311 - noise for a picture
    clients = tuple(f"host-{number}" for number in range(10))
    trials = kit.sweep([Constant(0.3), Constant(0.4), Constant(0.5)], 1, 30, lambda: rng.gauss(0, 1), clients)
    analysis = analyse(read_dataset(kit.FakeRun(tmp_path, trials, clients, whole=True).write()))
    shown = pictures(figures(analysis))
    bytes_of_page = written(analysis, tmp_path / "index.html", shown).stat().st_size
    assert bytes_of_page + len(shown) * STILL_LIMIT + LIBRARY_BYTES < 15_000_000


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
