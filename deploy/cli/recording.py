"""Commands that record a run: progress while it lasts, patience when it is interrupted, a report at its end."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

from rich.console import Console

from deploy.cli.frame import GaveUp, logging_in
from deploy.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from deploy.progress import Progress
    from deploy.remote.ssh import Connector


def recording(title: str, work: Callable[[Progress, Connector], None], *, ended: bool = True) -> None:
    """Do something that records a run, showing progress; report on what has `ended`, and on what failed."""
    from deploy.progress import Progress  # noqa: PLC0415 - keeps --help fast

    started = time.monotonic()
    progress = Progress(Console(), title)
    try:
        with progress, _patient(progress), logging_in(progress.interlude) as connect:
            work(progress, connect)
    except (DeployError, KeyboardInterrupt):
        if progress.directory is not None and not _is_running(progress.directory):
            with contextlib.suppress(DeployError):
                report_on(progress.directory)
        raise
    if ended and progress.directory is not None:
        report_on(progress.directory, started)


def report_on(run: Path, started: float | None = None, *, csv: bool = False, paper: bool = False) -> None:
    """Write a run's report and print its summary, with the time since `started` (monotonic) if the command ran it."""
    from deploy.analysis.report import write_report  # noqa: PLC0415 - keeps --help fast
    from deploy.summary import print_summary  # noqa: PLC0415

    summary = write_report(run, csv=csv, paper=paper)
    print_summary(Console(), summary, None if started is None else time.monotonic() - started)


def _is_running(run: Path) -> bool:
    """Whether a campaign was left running, so that there is nothing to report on yet."""
    from deploy.manifest import read_manifest  # noqa: PLC0415 - keeps --help fast

    return read_manifest(run).status == "running"


@contextlib.contextmanager
def _patient(progress: Progress) -> Iterator[None]:
    """Let Ctrl-C (or SIGTERM) end a campaign in good order: in that time one more warns, a second gives up."""
    warned = False

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal warned
        if not progress.undoing:
            progress.undoing = True
            raise KeyboardInterrupt
        if warned:
            raise GaveUp
        warned = True
        progress.note("stopping what was started and pulling its logs; interrupt once more to leave it as it is")

    before = [(number, signal.signal(number, interrupt)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
