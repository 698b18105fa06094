"""The frame around flserver and flclient: one JSON file in, one event log out, an exit status that says how it went.

`python -m flserver JOB.json` writes its events.jsonl beside the job file. SIGTERM ends it like an error would, so that
the log says so; what goes wrong is one `failed` event, and a traceback on stderr only where the cause is a bug or the
user's app.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flcommon.errors import FieldlabError, StepError
from flcommon.eventlog import EventLog
from flcommon.events import Failed, JobAccepted
from flcommon.job import Job, JobType, load_job
from flcommon.process import EVENTS_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

STOPPED_FROM_OUTSIDE = "stopped from outside"
"""What a process says that got a SIGTERM: `deploy.watched` starts it again, if it was not stopped on purpose."""
VERSIONED = ("flwr", "grpcio", "protobuf", "msgspec", "numpy", "torch", "torchvision")


class Terminated(BaseException):
    """SIGTERM arrived."""


def run_process(
    role: str, arguments: Sequence[str], kind: type[JobType], work: Callable[[JobType, EventLog], None]
) -> int:
    """Do `work` for the job file named on the command line; return the exit status (0, 1; 2 for bad usage)."""
    if len(arguments) != 1:
        print(f"usage: python -m fl{role} JOB.json", file=sys.stderr)  # noqa: T201 - a program's usage line
        return 2
    signal.signal(signal.SIGTERM, _terminate)
    path = Path(arguments[0])
    try:
        job = load_job(path, kind)
        log = EventLog(path.parent / EVENTS_FILE)
        log.write(_first_line(role, job))
    except (FieldlabError, OSError) as error:
        print(f"{role}: {error}", file=sys.stderr)  # noqa: T201 - there is no log to write to
        return 1
    return _guard(lambda: work(job, log), log)


def leave(status: int) -> None:
    """End the process now: the logs are on disk, and no library's threads or exit handlers shall hold it up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


def _first_line(role: str, job: Job) -> JobAccepted:
    return JobAccepted(
        role=role,
        host=job.host,
        campaign=job.campaign,
        pid=os.getpid(),
        versions=versions(),
        job=msgspec.Raw(msgspec.json.encode(job)),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result may depend on, where they are installed."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _guard(work: Callable[[], None], log: EventLog) -> int:
    """Run, and turn whatever happens into an event and an exit status."""
    try:
        work()
    except StepError as error:
        return _fail(log, error.step, error.reason)
    except FieldlabError as error:
        return _fail(log, "run", str(error))
    except (Terminated, KeyboardInterrupt):
        return _fail(log, "run", STOPPED_FROM_OUTSIDE)
    except OSError as error:
        traceback.print_exc()
        return _fail(log, "run", error.strerror or str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the app's own errors may be anything, sys.exit too
        traceback.print_exc()
        return _fail(log, "run", f"{type(error).__name__}: {error}")
    return 0


def _fail(log: EventLog, step: str, reason: str) -> int:
    reason = reason.encode(errors="backslashreplace").decode()  # a file name in it may be no text
    print(f"{step}: {reason}", file=sys.stderr)  # noqa: T201 - the host's own record
    try:
        log.write(Failed(step=step, reason=reason))
    except OSError as error:
        print(f"and the log cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201
    return 1
