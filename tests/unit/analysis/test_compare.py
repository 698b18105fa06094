from __future__ import annotations

import csv
import json
import random
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deploy.analysis.comparing.match import compare
from deploy.analysis.comparing.runs import read_runs
from deploy.analysis.comparing.sections import sections
from deploy.analysis.comparing.words import headlines
from deploy.analysis.comparing.write import Written, write_comparison
from deploy.analysis.statistics.effects import ADDED
from deploy.analysis.statistics.pairs import pairs
from deploy.cli import app
from deploy.errors import DeployError, InputError
from flcommon.delay import Constant, Delay
from flcommon.job import Stop

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from deploy.analysis.comparing.match import Comparison

LONGER_S = 0.25
"""By so much each round of the second strategy is longer."""


class Runs:
    """Makes run directories: two conditions, p = 0 and 1, times three repeats of four rounds; repeats vary."""

    def __init__(self, kit: ModuleType, folder: Path) -> None:
        self.kit, self.folder = kit, folder

    def make(self, name: str, longer_s: float = 0.0, **changes: Any) -> Path:
        """Make a run; `plan`, `lab` and `clients` change what they say, all else is of the resolved playbook."""
        planned, clients = changes.pop("plan", {}), changes.pop("clients", self.kit.CLIENTS)
        lab, campaign = changes.pop("lab", "bench-1"), changes.pop("campaign", name)
        folder = self.folder / name
        folder.mkdir()
        rng = random.Random(1)  # noqa: S311 - the same noise in every run: what a shared schedule does
        trials = [self._trial(rng, (p, repeat), longer_s, planned, clients) for repeat in range(3) for p in (0, 1)]
        self.kit.FakeRun(folder, trials, clients=clients, lab=lab, whole=True).write()
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest |= {"campaign": campaign, "playbook_resolved": {"seed": 1, "rounds": 4, **changes}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    def _trial(self, rng: random.Random, place: tuple[int, int], longer_s: float, planned: Any, clients: Any) -> Any:
        p, repeat = place
        delay, index = Delay(float(p), Constant(2.0)), 2 * repeat + p
        rest_s = rng.uniform(0.1, 0.9) + longer_s
        works = dict.fromkeys(clients, self.kit.Work(1.0, 2.0 * p, 2.0 * p))
        rounds = [self.kit.FakeRound(works, rest_s, accuracy=0.5 + longer_s)] * 4
        named = {"condition": p, "repeat": repeat, "schedule": index, "rounds": 4, **planned}
        return self.kit.FakeTrial(self.kit.plan(index, delay, **named), rounds, reached="stop" in named)


@pytest.fixture
def runs(kit: ModuleType, tmp_path: Path) -> Runs:
    return Runs(kit, tmp_path)


@pytest.fixture(scope="module")
def told(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the command prints of two strategies on one lab, where it writes without being told where."""
    folder = tmp_path_factory.mktemp("compare")
    made = Runs(kit, folder)
    made.make("a", run_config={"strategy": "fedavg"})
    made.make("b", LONGER_S, run_config={"strategy": "fedprox"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "150")
        done = CliRunner().invoke(app, ["compare", "a", "b"])
    assert done.exit_code == 0, done.output
    return folder, done.stdout


@pytest.fixture(scope="module")
def written(told: tuple[Path, str]) -> Written:
    """The same, as its parts."""
    folder, _ = told
    comparison = compared(folder / "a", folder / "b")
    page = folder / "compare-a-b" / "compare.html"
    return Written(comparison=comparison, headlines=headlines(comparison), page=page)


def compared(*directories: Path) -> Comparison:
    return compare(read_runs(directories))


def test_pairs_tell_what_chance_would_hide(written: Written) -> None:
    """Trials vary by seconds, pairs differ by just 4 rounds of 0.25 s: the interval has no width, and says why."""
    for match in written.comparison.matches:
        versus = match.sides[1].versus if match.sides[1] else None
        assert versus is not None
        assert versus.difference is not None
        assert versus.accuracy is not None
        gap = versus.difference
        assert (gap.value, gap.low, gap.high) == pytest.approx((1.0, 1.0, 1.0))
        assert (gap.method, gap.n, versus.paired) == ("paired t", 3, True)
        assert versus.accuracy.value == pytest.approx(LONGER_S)
    assert written.headlines[0].startswith("fedprox took 1.")
    assert written.headlines[0].endswith("; by the 95 % intervals longer in all of them.")


def test_what_else_differs_is_told_and_names_the_runs(written: Written) -> None:
    comparison = written.comparison
    assert [run.name for run in comparison.runs] == ["fedavg", "fedprox"]
    assert [(each.what, each.values) for each in comparison.differing] == [
        ("run_config.strategy", ("fedavg", "fedprox"))
    ]
    assert written.headlines[1] == "Between the runs differ: run_config.strategy."


def test_the_page_stands_alone_and_says_first_what_differs(written: Written) -> None:
    """Nothing is loaded from elsewhere; the table of what differs comes before the times; figures are drawn."""
    html = written.page.read_text()
    assert re.findall(r'(?:src|href)="(?!#|figure-)[^"]*"', html.partition("<script>")[0]) == []
    assert 0 < html.index('id="differing-table"') < html.index('id="time-table"') < html.index('id="path-table"')
    assert "paired" not in html.partition('id="path-table"')[2].partition("<script>")[0]
    assert "pairs:\N{NO-BREAK SPACE}t\N{NO-BREAK SPACE}and\N{NO-BREAK SPACE}Fieller" in html
    for name, points in (("figure-compare", 4), ("figure-ratio", 2)):
        svg = written.page.with_name(f"{name}.svg").read_text()
        assert svg.count('aria-roledescription="circle"') == points
        assert svg.count('aria-roledescription="rule mark"') >= points
        assert written.page.with_name(f"{name}.png").stat().st_size > 0
        assert written.page.with_name(f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_table_for_other_tools_has_a_row_for_each_run_of_each_condition(written: Written) -> None:
    """With the swept values, both times, the difference where there is one, and each part of a round."""
    with written.page.with_name("comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["delay.probability"], row["run"]) for row in rows] == [
        ("0.0", "fedavg"), ("0.0", "fedprox"), ("1.0", "fedavg"), ("1.0", "fedprox"),
    ]  # fmt: skip
    assert [row["difference_s"] for row in rows[::2]] == ["", ""]
    assert float(rows[1]["difference_low_s"]) == pytest.approx(1.0)
    assert float(rows[1]["time_s"]) - float(rows[0]["time_s"]) == pytest.approx(1.0)
    for row in rows:
        parts = sum(float(row[f"{group}_s_per_round"]) for group in ADDED)
        assert parts == pytest.approx(float(row["time_s"]) / 4)


@pytest.mark.parametrize(
    ("change", "paired"),
    [
        ({}, [True, True]),
        ({"plan": {"rounds": 5}}, [False, False]),
        ({"plan": {"seed": 2}}, [False, False]),
        ({"seed": 7}, [False, False]),
        ({"clients": ("x", "y", "z")}, [True, False]),
    ],
    ids=["alike", "rounds", "weights", "delays", "clients"],
)
def test_only_trials_that_chance_treated_alike_are_pairs(
    runs: Runs, change: dict[str, Any], paired: list[bool]
) -> None:
    """Other rounds, weights, draws or clients: compared as a whole, which leaves the difference in doubt.

    Where nothing is injected (p = 0), there are no draws that other clients could have drawn otherwise.
    """
    comparison = compared(runs.make("a"), runs.make("b", LONGER_S, **change))
    versus = [match.sides[1].versus for match in comparison.matches if match.sides[1]]
    assert [each.paired for each in versus if each] == paired
    for each, pair in zip(versus, paired, strict=True):
        assert each is not None
        assert each.difference is not None
        assert each.difference.value == pytest.approx(1.0)
        assert each.difference.low is not None
        assert (each.difference.low > 0) == pair


def test_labs_name_runs_where_they_differ(runs: Runs) -> None:
    comparison = compared(runs.make("a"), runs.make("b", lab="bench-2", clients=("x", "y")))
    assert [run.name for run in comparison.runs] == ["bench-1", "bench-2"]
    assert {each.what for each in comparison.differing} == {"lab", "clients", "clients in a round"}


def test_turned_round_a_comparison_says_the_reverse(runs: Runs) -> None:
    one, other = runs.make("a"), runs.make("b", LONGER_S)
    there, back = compared(one, other), compared(other, one)
    for first, second in zip(there.matches, back.matches, strict=True):
        assert first.sides[1] is not None
        assert second.sides[1] is not None
        ours, theirs = first.sides[1].versus, second.sides[1].versus
        assert ours is not None
        assert theirs is not None
        assert ours.difference is not None
        assert theirs.difference is not None
        assert ours.difference.value == pytest.approx(-theirs.difference.value)
        assert ours.ratio is not None
        assert theirs.ratio is not None
        assert ours.ratio.value == pytest.approx(1 / theirs.ratio.value)


def test_conditions_without_a_partner_are_named(runs: Runs, kit: ModuleType) -> None:
    """Three runs: what only one has is left out; what two have is compared, and the third has no side."""
    one, other = runs.make("a"), runs.make("b")
    third = runs.folder / "c"
    third.mkdir()
    plans = [kit.plan(0, Delay(0.0, Constant(2.0)), rounds=1), kit.plan(1, Delay(0.5, Constant(2.0)), rounds=1)]
    kit.FakeRun(third, [kit.FakeTrial(each, [kit.simple_round(1.0)]) for each in plans]).write()
    comparison = compared(one, other, third)
    assert [run.name for run in comparison.runs] == ["a", "b", "c"]
    assert comparison.alone == (("c", "p = 0.5, d = 2 s"),)
    assert [[side is not None for side in match.sides] for match in comparison.matches] == [
        [True] * 3,
        [True, True, False],
    ]
    assert "Without a partner, and left out: p = 0.5, d = 2 s (c)." in headlines(comparison)


def test_time_to_the_target_is_compared_where_there_is_one(runs: Runs) -> None:
    stop = {"stop": Stop(metric="accuracy", at_least=0.5)}
    comparison = compared(runs.make("a", plan=stop), runs.make("b", 2.0, plan=stop))
    side = comparison.matches[0].sides[1]
    assert side is not None
    assert side.versus is not None
    assert side.versus.logrank_p is not None
    assert side.versus.logrank_p < 0.05
    shown = {each.name: each for each in sections(comparison, ())}
    assert [row.cells[2].text for row in shown["target"].parts[0].table.rows] == ["3 of 3"] * 4


def refusal(*words: object) -> str:
    """Return what the command line says to a comparison that cannot be: one line, exit status 2."""
    done = CliRunner().invoke(app, ["compare", *map(str, words)])
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    return line


def test_what_cannot_be_compared_is_refused_in_one_sentence(runs: Runs, kit: ModuleType) -> None:
    one = runs.make("a")
    copy = runs.make("copy", campaign="a")
    elsewhere = runs.folder / "elsewhere"
    elsewhere.mkdir()
    strategy = kit.plan(0, settings={"run_config.strategy": "x"})
    kit.FakeRun(elsewhere, [kit.FakeTrial(strategy, [kit.simple_round(1.0)])]).write()
    assert "name at least two run directories" in refusal(one)
    assert "the same run as" in refusal(one, one.parent / "." / "a")
    assert "the same run as" in refusal(one, copy)
    assert str(runs.folder / "nowhere") in refusal(one, runs.folder / "nowhere")
    line = refusal(one, elsewhere)
    assert "no condition in common" in line
    assert "sweeps delay.probability, delay.seconds; " in line
    assert "sweeps run_config.strategy; " in line
    with pytest.raises(InputError, match="at least two"):
        read_runs([])


def test_a_directory_that_cannot_be_written_is_an_error_of_this_machine(runs: Runs) -> None:
    one, other = runs.make("a"), runs.make("b")
    (runs.folder / "file").write_text("")
    with pytest.raises(DeployError, match="the comparison cannot be written"):
        write_comparison([one, other], runs.folder / "file")


def test_the_command_prints_what_differs_the_times_and_where_the_page_is(told: tuple[Path, str]) -> None:
    """Without --output, the directory is named after the runs, and stands in the current one."""
    folder, stdout = told
    assert re.search(r"run_config\.strategy +fedavg +fedprox", stdout)
    assert re.search(r"fedprox +3 +0\.750 +\d+\.\d\d +\+1\.00 \(\+1\.00 to \+1\.00\)", stdout)
    assert "compare-a-b/compare.html" in stdout
    assert (folder / "compare-a-b" / "comparison.csv").exists()


@given(st.lists(st.integers(0, 5), unique=True), st.lists(st.integers(0, 5), unique=True))
def test_pairs_hold_what_both_have_or_all_of_both(ours: list[int], theirs: list[int]) -> None:
    left, right, paired = pairs(ours, theirs, lambda each: each)
    if paired:
        assert left == right == [each for each in ours if each in theirs]
    else:
        assert (left, right) == (ours, theirs)
        assert len(set(ours) & set(theirs)) < 2
