"""What is printed at the end: every number of the summary, its problems, and where the report is."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from deploy.analysis.report import Summary
from deploy.analysis.statistics.conditions import Condition
from deploy.summary import print_summary


@pytest.fixture
def summary(plan):
    """Give a run whose first condition took 12.5 s where theory expects 10 s, and whose second never ran."""
    ran = Condition(
        plan=plan.trials[0],
        label="p = 0",
        planned=3,
        complete=2,
        censored=0,
        rounds=4.0,
        accuracy=0.8765,
        total_s=12.5,
        std_s=0.5,
        expected_s=10.0,
        drawn_s=10.0,
        ideal_s=9.0,
    )
    nothing = msgspec.structs.replace(
        ran, label="p = 0.5", complete=0, rounds=None, accuracy=None, total_s=None, std_s=None, ideal_s=None
    )
    return Summary(
        page=Path("runs/x/report/index.html"),
        figure=Path("runs/x/report/figure-4.svg"),
        headlines=("Time rises with p.",),
        conditions=(ran, nothing),
        trials_complete=2,
        trials_planned=6,
        total_s=25.04,
        ideal_s=18.0,
        problems=("pi-a: [bold]no log[/bold]",),
    )


def printed(summary, wall_s=None):
    output = StringIO()
    print_summary(Console(file=output, width=100), summary, wall_s)
    return output.getvalue()


def row(text, label):
    """Return the cells of a table row."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(label + "  ")]
    return line.split(label, 1)[1].split()


def test_the_numbers_are_printed(summary):
    """Trials, rounds, accuracy, time, expected time, difference in percent; a dash where nothing is known."""
    text = printed(summary, 61.26)
    assert row(text, "p = 0") == ["2/3", "4", "0.876", "12.50", "10.00", "+25", "%"]
    assert row(text, "p = 0.5") == ["0/3", "-", "-", "-", "10.00", "-"]
    for part in ("2 of 6 trials", "18.0 s", "25.0 s", "61.3 s", "Time rises with p."):
        assert part in " ".join(text.split()), part


def test_repeats_show_their_interval(summary):
    """A condition without one has a dash; without repeats there is no such column."""
    sure, none = summary.conditions
    sure = msgspec.structs.replace(sure, low_s=11.9, high_s=13.1)
    text = printed(msgspec.structs.replace(summary, conditions=(sure, none)))
    assert row(text, "p = 0") == ["2/3", "4", "0.876", "12.50", "11.90", "to", "13.10", "10.00", "+25", "%"]
    assert row(text, "p = 0.5") == ["0/3", "-", "-", "-", "-", "10.00", "-"]
    assert "95 %" not in printed(summary)


def test_problems_are_printed_as_they_are(summary):
    """Brackets of a problem are text."""
    assert "problem: pi-a: [bold]no log[/bold]" in printed(summary)


def test_problems_come_last(summary):
    """Nobody shall miss them: a run may be complete without one of its clients."""
    assert printed(summary, 1.0).splitlines()[-1].startswith("problem: ")


def test_the_report_is_named(summary):
    """The path is on one line, to be clicked or copied, whatever its length."""
    long = Path("runs") / ("x" * 150) / "index.html"
    assert str(long) in printed(msgspec.structs.replace(summary, page=long))
    assert str(summary.figure) in printed(summary)


def test_a_run_that_measured_nothing_has_no_table(summary):
    """What is not known is not printed, and nothing fails."""
    bare = msgspec.structs.replace(
        summary, conditions=(), headlines=(), problems=(), figure=None, trials_complete=0, total_s=0.0, ideal_s=None
    )
    text = printed(bare)
    assert "0 of 6 trials" in text
    assert "condition" not in text
    assert "figure" not in text
