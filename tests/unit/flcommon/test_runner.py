"""The frame around a process: whatever happens is in the log, and in the exit status."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest

from flcommon.errors import FieldlabError, StepError
from flcommon.eventlog import EventLog, read_log
from flcommon.events import Failed, JobAccepted, Listening
from flcommon.job import AppRef, Job
from flcommon.runner import run_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOB = Job(campaign="c1", host="a", app=AppRef(client="c:app", server="s:app"))


@pytest.fixture(autouse=True)
def _own_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "job.json"
    path.write_bytes(msgspec.json.encode(JOB))
    return path


def run(path: Path, work: Callable[[Job, EventLog], None]) -> tuple[int, list]:
    status = run_process("client", [str(path)], Job, work)
    reading = read_log(path.with_name("events.jsonl"))
    assert reading.problems == []
    return status, [event for _, event in reading.events]


def raising(error: BaseException) -> Callable[[Job, EventLog], None]:
    def work(_job: Job, _log: EventLog) -> None:
        raise error

    return work


def test_the_first_line_is_the_job(path: Path) -> None:
    """Who writes, on which host and for which campaign, with the job and the versions a result may depend on."""
    status, events = run(path, lambda _job, log: log.write(Listening(address="a:1")) and None)
    assert status == 0
    first, second = events
    assert isinstance(first, JobAccepted)
    assert (first.role, first.host, first.campaign, first.pid) == ("client", "a", "c1", os.getpid())
    assert msgspec.json.decode(first.job, type=Job) == JOB
    assert {"python", "flwr", "grpcio", "msgspec"} <= set(first.versions)
    assert second == Listening(address="a:1")


@pytest.mark.parametrize(
    ("error", "step", "reason", "traceback"),
    [
        (StepError("connect", "no answer"), "connect", "no answer", False),
        (FieldlabError("one sentence"), "run", "one sentence", False),
        (OSError(28, "No space left on device"), "run", "No space left on device", True),
        (OSError("plain"), "run", "plain", True),
        (ZeroDivisionError("division by zero"), "run", "ZeroDivisionError: division by zero", True),
        (SystemExit(3), "run", "SystemExit: 3", True),
        (FieldlabError("no such file: \udcff"), "run", "no such file: \\udcff", False),
        (KeyboardInterrupt(), "run", "stopped from outside", False),
    ],
)
def test_what_goes_wrong_is_one_failed_event(
    path: Path, capsys: pytest.CaptureFixture[str], error: BaseException, step: str, reason: str, *, traceback: bool
) -> None:
    """Status 1, one event, one sentence on stderr; a traceback only for what may be a bug or is the app's."""
    status, events = run(path, raising(error))
    assert status == 1
    assert events[1:] == [Failed(step=step, reason=reason)]
    told = capsys.readouterr().err
    assert told.endswith(f"{step}: {reason}\n")
    assert ("Traceback" in told) is traceback


def test_sigterm_ends_it_like_an_error(path: Path) -> None:
    """SIGTERM interrupts the work wherever it is, and the log says so."""

    def work(_job: Job, log: EventLog) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        log.write(Listening(address="never"))

    status, events = run(path, work)
    assert status == 1
    assert events[1:] == [Failed(step="run", reason="stopped from outside")]


def test_bad_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Without exactly one job file there is a usage line."""
    assert run_process("server", [], Job, raising(AssertionError())) == 2
    assert capsys.readouterr().err == "usage: python -m flserver JOB.json\n"


def test_a_bad_job_starts_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no log yet: the reason is on stderr, and the work is not begun."""
    path.write_bytes(b"{}")
    assert run_process("client", [str(path)], Job, raising(AssertionError())) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"client: {path}: ")
    assert "campaign" in told
    assert not path.with_name("events.jsonl").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's /dev/full")  # noqa: PTH110 - evaluated at import
def test_a_log_that_cannot_be_written_is_said_on_stderr(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk at the start ends the process with the system's words."""
    path.with_name("events.jsonl").symlink_to("/dev/full")
    assert run_process("client", [str(path)], Job, raising(AssertionError())) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_disk_that_fills_up_does_not_hide_the_first_error(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The failed event cannot be written either: both are on stderr."""

    def work(_job: Job, log: EventLog) -> None:
        log.close()
        raise FieldlabError("the first error")

    assert run_process("client", [str(path)], Job, work) == 1
    told = capsys.readouterr().err
    assert told == "run: the first error\nand the log cannot be written: Bad file descriptor\n"
