"""What a user sees of a campaign: lines where output is kept, a picture on a terminal, and text only as text."""

from __future__ import annotations

import dataclasses
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from deploy.progress import MOST_HOSTS, Progress
from flcommon import events
from flcommon.job import WARMUP

RUN = Path("runs/bench/p-20260131T120000Z")


def played(progress, plan):
    """Tell a campaign up to the middle of its second trial."""
    progress.hosts(["server", "pi-a", "pi-b"])
    for phase in ("look", "push"):
        progress.phase(phase)
    progress.run(RUN, plan)
    progress.phase("start")
    progress.event("server", events.Listening(address="192.0.2.10:8080"))
    for host, after_s in (("server", 2.0), ("pi-a", 3.5)):
        progress.event(host, events.Ready(after_s=after_s, app_import_s=1.0))
    progress.phase("run")
    progress.event("server", events.TrialOpened(trial=WARMUP))
    progress.event("server", events.RoundEnded(trial=WARMUP, round=1, duration_s=100.0))
    progress.event("server", events.TrialEnded(trial=WARMUP, ok=True, rounds=1, duration_s=100.0))
    progress.event("server", events.TrialOpened(trial=0))
    for number in (1, 2, 3, 4):
        progress.event("server", events.RoundStarted(trial=0, round=number))
        values = {"accuracy": 0.125 * number}
        progress.event("server", events.Metrics(trial=0, round=number, source="central", values=values))
        progress.event("server", events.RoundEnded(trial=0, round=number, duration_s=10.0))
    progress.event("server", events.TrialEnded(trial=0, ok=True, rounds=4, duration_s=40.0))
    progress.event("server", events.TrialOpened(trial=1))
    progress.event("server", events.RoundStarted(trial=1, round=1))


@pytest.fixture
def piped():
    """Give a progress whose output is kept, and the output."""
    output = StringIO()
    return Progress(Console(file=output, width=60), "bench · p"), output


@pytest.fixture
def drawn():
    """Give a progress on a terminal, and a function that returns the picture as text."""
    console = Console(file=StringIO(), width=100, force_terminal=True, record=True)
    progress = Progress(console, "bench · p")

    def picture():
        console.print(progress._picture())
        return console.export_text()

    return progress, picture


def test_a_log_gets_a_line_for_each_phase_and_trial(piped, plan):
    """No line is wrapped, whatever the width: a log is searched by line."""
    progress, output = piped
    with progress:
        played(progress, plan)
        progress.phase("pull")
    lines = output.getvalue().splitlines()
    assert [line.split(" s  ", 1)[1] for line in lines[:4]] == [
        "looking",
        "pushing code",
        f"2 trials, 2 clients, into {RUN}",
        "starting",
    ]
    (trial,) = [line for line in lines if "trial 1 of 2" in line]
    assert "took 40.00 s" in trial
    assert "accuracy 0.5" in trial
    assert "about 0:49 left" in trial, "4 rounds of 10 s + 3 s · (1 - 0.5²)"
    assert sum("warming up" in line for line in lines) == 1
    assert lines[-1].endswith("pulling logs")
    assert "\x1b" not in output.getvalue()


def test_the_picture_says_where_the_campaign_is(drawn, plan):
    """Hosts and their state, trial k of n with its settings, the round, and the time that is left."""
    progress, picture = drawn
    played(progress, plan)
    shown = picture()
    for part in (
        "bench · p",
        "running",
        "pi-a",
        "ready after 3.5 s",
        "pi-b",
        "trial 2 of 2",
        "round 1 of 4",
        "0:49 left",
    ):
        assert part in shown, part
    assert "p = 0.5" in shown


def test_of_how_many_rounds_is_left_out_where_only_the_app_knows(drawn, plan):
    """`round 1 of 0` would be nonsense."""
    progress, picture = drawn
    trials = tuple(msgspec.structs.replace(trial, rounds=0) for trial in plan.trials)
    played(progress, dataclasses.replace(plan, trials=trials))
    assert "round 1 ·" in picture()


def test_there_is_a_picture_before_anything_is_known(drawn):
    """The first frame is drawn before the first phase."""
    progress, picture = drawn
    assert "bench · p" in picture()
    progress.hosts(["a"])
    progress.phase("connect")
    assert "connecting" in picture()


def test_the_warm_up_counts_as_no_trial(drawn, plan):
    """It is shown as what it is, and its slow first round is in no estimate."""
    progress, picture = drawn
    progress.run(RUN, plan)
    progress.event("server", events.TrialOpened(trial=WARMUP))
    progress.event("server", events.RoundEnded(trial=WARMUP, round=1, duration_s=100.0))
    shown = picture()
    assert "warming up" in shown
    assert "0 of 2 trials done" in shown
    assert "left" not in shown


def test_a_terminal_gets_a_live_picture_and_no_lines(drawn, plan):
    """The picture goes away at the end; the cursor comes back."""
    progress, _ = drawn
    with progress:
        played(progress, plan)
        progress.note("pi-a: pull: damaged")
    output = progress._console.file.getvalue()
    assert "note: pi-a: pull: damaged" in output
    assert "looking\n" not in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")


def test_many_hosts_are_a_count(drawn, plan):
    """Fifty hosts do not fit a terminal."""
    progress, picture = drawn
    names = [f"pi-{number}" for number in range(MOST_HOSTS + 1)]
    progress.hosts(names)
    progress.run(RUN, plan)
    progress.event("pi-3", events.Ready(after_s=1, app_import_s=1))
    shown = picture()
    assert f"{len(names)} hosts, 1 ready" in shown
    assert "pi-3" not in shown


def test_losses_and_returns_are_told_and_shown(drawn, plan):
    """Each is a note, and the state beside the client is the last one."""
    progress, picture = drawn
    progress.hosts(["server", "pi-a", "pi-b"])
    progress.run(RUN, plan)
    for client in ("pi-a", "pi-b"):
        progress.event("server", events.ClientLost(client=client, reason="it fell silent"))
    progress.event("server", events.ClientBack(client="pi-a", peer="x", after_s=12.34, restarted=True))
    progress.event("server", events.ClientGivenUp(client="pi-b", reason="not back within 120 s"))
    progress.event("server", events.Refused(reason="no certificate", peer="192.0.2.9", count=2))
    shown = picture()
    for told in (
        "note: pi-a: lost: it fell silent",
        "note: pi-a: back after 12.3 s, in a new process",
        "note: pi-b: given up: not back within 120 s",
        "note: server: refused 192.0.2.9: no certificate (2 times)",
    ):
        assert shown.count(told) == 1, told
    states = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines() if line.startswith("  pi-")}
    assert states["pi-a"] == "back after 12.3 s, in a new process"
    assert states["pi-b"] == "given up: not back within 120 s"


def test_an_error_of_the_app_is_told_once_and_then_counted(drawn, plan):
    """With when it was and where its traceback will be; another error, and another host's, are told too."""
    progress, picture = drawn
    progress.hosts(["server", "pi-a", "pi-b"])
    progress.run(RUN, plan)
    for number, (host, error) in enumerate([("pi-a", "ValueError: x\ny")] * 3 + [("pi-b", "ValueError: x\ny")], 1):
        place = {"trial": 3, "round": number, "message": "m", "client": host, "kind": "train"}
        progress.event(host, events.AppRaised(**place, error=error))
    text = " ".join(picture().split())
    told = f"the app raised ValueError: x (trial 3, round 1; traceback: {RUN}/raw/pi-a/stderr)"
    assert text.count(f"note: pi-a: {told}") == 1
    assert text.count("note: pi-b: the app raised") == 1
    assert "the app raised ValueError: x (trial 3, round 3; 3 times)" in text


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/nonsense]", "[link=file:///]x", ":boom:", "a\\[b]"])
def test_what_hosts_say_is_text_and_never_markup(drawn, piped, plan, text):
    """A reason with brackets is shown as it is, in the picture, in notes and in lines."""
    progress, picture = drawn
    progress.hosts([text])
    progress.event(text, events.Failed(step="run", reason=f"because {text}"))
    progress.run(RUN, plan)
    progress.event("server", events.TrialOpened(trial=0))
    progress.event("server", events.Metrics(trial=0, round=1, source="central", values={text: 1.0}))
    shown = picture()
    assert f"{text}" in shown
    assert f"because {text}" in shown
    assert f"{text} 1" in shown
    progress.note(text)
    assert f"note: {text}" in progress._console.export_text()
    line, output = piped
    line.phase(text)
    line.note(text)
    assert output.getvalue().count(text) == 2
