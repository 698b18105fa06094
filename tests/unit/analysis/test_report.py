from __future__ import annotations

import json
import random
import re
import struct
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from deploy.analysis.export.columns import TABLES
from deploy.analysis.figures.catalogue import figures, main_figure
from deploy.analysis.page.conditions import delay_check
from deploy.analysis.page.origin import downloads
from deploy.analysis.page.page import Drawings, page
from deploy.analysis.page.words import headlines
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.report import write_report
from deploy.analysis.statistics.conditions import analyse
from deploy.analysis.trace.write import Traced
from deploy.errors import DeployError, InputError
from flcommon.delay import Constant, Delay, Uniform
from flcommon.job import Stop

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from deploy.analysis.report import Summary
    from deploy.analysis.statistics.conditions import Analysis

EVIL = "<script>alert(1)</script>\"'><img src=http://x.invalid/a.png>"


class Page(HTMLParser):
    """Collects what a page loads, links to, holds as scripts, and says."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: set[str | None] = set()
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids.add(dict(attrs).get("id"))
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in {"src", "href", "srcset", "data", "poster", "action", "xlink:href"}:
                self.loads.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        inside_script = bool(self.tags) and self.tags[-1] == "script" and self.cdata_elem == "script"
        (self.scripts if inside_script else self.words).append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sweep_run(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> Path:
    """A complete campaign of 18 conditions with a little noise."""
    rng = random.Random(1)  # noqa: S311 - noise for a picture
    sizes = [Constant(0.3), Constant(0.4), Constant(0.5)]
    folder = tmp_path_factory.mktemp("sweep")
    run: Path = kit.FakeRun(folder, kit.sweep(sizes, 1, 3, lambda: rng.gauss(0, 1))).write()
    return run


@pytest.fixture(scope="module")
def summary(sweep_run: Path) -> Summary:
    """Its report, written once."""
    return write_report(sweep_run)


def found(fake: Any) -> tuple[Analysis, tuple[str, ...]]:
    """Return what the analysis of a run finds, in numbers and in words, without drawing anything."""
    analysis = analyse(read_dataset(fake.write()))
    return analysis, headlines(analysis)


def test_report_of_a_sweep(sweep_run: Path, summary: Summary) -> None:
    """A page, figure 4 as svg, png and pdf, the table, and a summary that says the same."""
    report = sweep_run / "report"
    assert (summary.page, summary.figure) == (report / "index.html", report / "figure-4.svg")
    assert (summary.trials_complete, summary.trials_planned, len(summary.conditions)) == (18, 18, 18)
    assert summary.ideal_s is not None
    assert 0.5 * summary.total_s < summary.ideal_s < summary.total_s
    assert (report / "figure-4.png").read_bytes().startswith(b"\x89PNG")
    assert struct.unpack(">I", (report / "figure-4.png").read_bytes()[16:20])[0] > 1200
    pdf = (report / "figure-4.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile" in pdf
    assert (sweep_run / "dataset.parquet").stat().st_size > 0


def test_page_is_self_contained_and_small(summary: Summary) -> None:
    """Nothing on it is fetched, its policy forbids fetching, and its links stay inside the run directory."""
    index = summary.page
    html = index.read_text(encoding="utf-8")
    page = Page(html)
    assert page.loads == []
    assert "default-src 'none'" in html
    files = [link for link in page.links if not link.startswith("#")]
    assert files
    assert all((index.parent / link).is_file() for link in files)
    assert {link.removeprefix("#") for link in page.links} - set(files) <= page.ids
    assert index.stat().st_size < 2_000_000


def test_every_download_says_what_it_is_and_a_trace_what_it_leaves_out(sweep_run: Path, summary: Summary) -> None:
    whole = Traced(path=sweep_run / "report" / "trace.json", slices=9, arrows=0, rounds=54, rounds_left_out=0)
    found = {each.name: each.about for each in downloads(sweep_run, whole)}
    assert {"dataset.parquet", "trace.json", *(f"{table.name}.parquet" for table in TABLES)} == set(found)
    assert all(found.values())
    assert found["trials.parquet"] in read(summary.page).text
    *_, cut = downloads(sweep_run, msgspec.structs.replace(whole, rounds=50, rounds_left_out=4))
    assert cut.about == f"{found['trace.json']}, without the last 4 of 54 rounds"


def test_headline_compares_measured_with_theory(tmp_path: Path, kit: ModuleType) -> None:
    """Ratios of exact logs: 3 s instead of 1 s a round."""
    trials = [
        kit.FakeTrial(kit.plan(0, Delay(0.0, Constant(2.0))), [kit.simple_round(1.0)] * 2),
        kit.FakeTrial(kit.plan(1, Delay(1.0, Constant(2.0))), [kit.simple_round(1.0, 2.0, rest_s=0.5)] * 2),
    ]
    analysis, said = found(kit.FakeRun(tmp_path, trials))
    assert said[0] == (
        "At p = 1 and d = 2 s training took 3.5 × as long as without delay (one trial each); theory expects 3 ×."  # noqa: RUF001
    )
    row = analysis.conditions[1]
    assert (row.total_s, row.expected_s, row.difference_s, row.drawn_s, row.ideal_s) == (7.0, 6.0, 1.0, 6.0, 6.0)
    assert row.difference_pct == pytest.approx(100 / 6)
    assert delay_check(analysis.dataset).startswith("2 delays were injected. Measured minus drawn: at most 0.00 ms")


def test_repeats_have_a_mean_and_a_standard_deviation(tmp_path: Path, kit: ModuleType) -> None:
    delay = Delay(1.0, Uniform(1.0, 3.0))
    trials = [
        kit.FakeTrial(kit.plan(i, delay, condition=0, repeat=i), [kit.simple_round(1.0, 1.0 + i)]) for i in range(3)
    ]
    (row,) = found(kit.FakeRun(tmp_path, trials))[0].conditions
    assert (row.complete, row.total_s, row.std_s) == (3, 3.0, 1.0)


def test_censored_trials_are_counted_and_left_out_of_means(tmp_path: Path, kit: ModuleType) -> None:
    stop = Stop(metric="accuracy", at_least=0.5)
    delay = Delay(0.5, Constant(1.0))
    trials = [
        kit.FakeTrial(kit.plan(0, delay, stop=stop), [kit.simple_round(1.0)], reached=True),
        kit.FakeTrial(kit.plan(1, delay, stop=stop, condition=0), [kit.simple_round(1.0)] * 3),
    ]
    analysis, said = found(kit.FakeRun(tmp_path, trials))
    assert [(row.total_s, row.censored, row.complete) for row in analysis.conditions] == [(1.0, 1, 2)]
    figure = main_figure(analysis)
    assert figure is not None
    points = [layer["mark"] for layer in figure.spec["layer"] if layer["mark"]["type"] == "point"]
    assert [mark.get("filled", False) for mark in points] == [True, False]
    assert said[-1].startswith("1 of 2 completed trials did not reach the target")


def test_every_trial_is_a_point_and_theory_a_fine_grid(summary: Summary) -> None:
    specs = _charts(read(summary.page))["specs"]
    data = specs["figure-4"]["datasets"]
    of = {layer["mark"]["type"]: data[layer["data"]["name"]] for layer in specs["figure-4"]["layer"]}
    assert len(of["point"]) == 18
    assert [row["d"] for row in of["line"] if row["kind"] == "theory"].count("d = 0.3 s") == 51
    assert len([row for row in of["line"] if row["kind"] == "measured"]) == 18


def _charts(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = next(json.loads(each) for each in page.scripts if each.startswith('{"config"'))
    return found


def test_playbook_without_probability_sweep_gets_time_by_condition(tmp_path: Path, kit: ModuleType) -> None:
    trials = [
        kit.FakeTrial(kit.plan(i, settings={"run_config.epochs": i}), [kit.simple_round(1.0 + i)]) for i in range(2)
    ]
    analysis, said = found(kit.FakeRun(tmp_path, trials))
    assert main_figure(analysis).name == "figure-time"
    assert said[0] == "At epochs = 1 training took 2 × as long as at epochs = 0 (one trial each)."  # noqa: RUF001


def test_failed_run_gives_a_page_that_says_why_and_no_figure(tmp_path: Path, kit: ModuleType) -> None:
    trials = [kit.FakeTrial(kit.plan(i, Delay(1.0, Constant(1.0))), [], ended=False) for i in range(4)]
    error = "pi4-a: start: exit status 1\n    ImportError: no module named torch"
    summary = write_report(kit.FakeRun(tmp_path, trials, status="failed", error=error).write())
    text = read(summary.page).text
    assert summary.figure is None
    assert "The campaign failed: pi4-a: start: exit status 1" in text
    assert "ImportError: no module named torch" in text
    assert "0 of 4 trials were completed" in text
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]


def test_run_with_no_raw_logs_at_all_gives_a_page(tmp_path: Path, kit: ModuleType) -> None:
    manifest = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0), [])], status="interrupted").manifest
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    summary = write_report(tmp_path)
    assert len(summary.problems) == 4
    assert summary.headlines[0] == "The campaign was interrupted."


def test_a_second_report_leaves_nothing_of_the_first(tmp_path: Path, kit: ModuleType) -> None:
    """It has no figure, where the first had some, also for a paper."""
    fake = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0)])])
    fake.write()
    fake.log("server").unlink()
    for name in ("figure-4.svg", "trace.json", "paper/figure-4-1col.pdf"):
        (tmp_path / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "report" / name).write_text("of the first")
    assert write_report(tmp_path).figure is None
    assert [path.name for path in (tmp_path / "report").rglob("*") if path.is_file()] == ["index.html"]


def test_text_from_data_is_never_markup(tmp_path: Path, kit: ModuleType) -> None:
    """Host names, settings, facts, labs, errors: all of them may say what they like."""
    planned = kit.plan(0, settings={"run_config.note": EVIL, "delay.probability": 1.0}, delay=Delay(1.0, Constant(1.0)))
    clients = (EVIL.replace("/", "-"),)
    works = {clients[0]: kit.Work(1.0)}
    trials = [kit.FakeTrial(planned, [kit.FakeRound(works)])]
    fake = kit.FakeRun(tmp_path, trials, clients, status="failed", error=EVIL, lab=EVIL, facts={EVIL: {EVIL: EVIL}})
    analysis, said = found(fake)
    shown = Page(page(analysis, said, Drawings(pictures=tuple(kit.pictures(figures(analysis))), script="vegaEmbed")))
    assert shown.loads == []
    assert shown.tags.count("script") == 3
    assert shown.tags.count("img") == 0
    assert "<script>alert(1)" in shown.text
    assert not any("alert(1)</script" in script for script in shown.scripts)


@pytest.mark.parametrize(
    "odd", ["one client", "one condition", "no log of a client", "none of any", "no log of the server"]
)
def test_odd_runs_have_a_page(tmp_path: Path, kit: ModuleType, odd: str) -> None:
    """Whatever is missing, what is there is shown; what is called nan or None is shown to nobody."""
    clients = kit.CLIENTS[:1] if odd == "one client" else kit.CLIENTS
    trials = kit.sweep([Constant(0.5)], 2, 2, lambda: 0.5, clients)[: 1 if odd == "one condition" else None]
    fake = kit.FakeRun(tmp_path, trials, clients, whole=True)
    fake.write()
    lost = {"no log of a client": clients[:1], "none of any": clients, "no log of the server": ("server",)}
    for name in lost.get(odd, ()):
        fake.log(name).unlink()
    analysis = analyse(read_dataset(tmp_path))
    shown = Page(page(analysis, headlines(analysis), Drawings()))
    assert {"conditions", "problems", "hosts"} <= shown.ids
    assert ("stragglers" in shown.ids) == (odd not in {"one client", "no log of the server"})
    assert not re.search(r"\b(nan|None|inf)\b", re.sub(r"narrower|None: every host", "", shown.text))


def test_no_run_directory_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["report", "tables", "report/index.html", "report/figure-old.svg", "dataset.parquet"])
def test_what_is_in_the_way_of_a_report_is_named(tmp_path: Path, kit: ModuleType, name: str) -> None:
    """A file where a folder belongs, a folder where a file does."""
    kit.FakeRun(tmp_path, []).write()
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("here") if name in {"report", "tables"} else place.mkdir()
    with pytest.raises(
        DeployError, match=rf"{re.escape(str(place))}: the report cannot be written: (File exists|Is a d)"
    ):
        write_report(tmp_path)
