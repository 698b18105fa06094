"""Starts and stops a detached process in a campaign's directory on its host; `flcommon.commands` has the verbs.

The process outlives the SSH connection and the controller. A small supervisor, in a session of its own, starts it in a
process group of its own, keeps stdout and stderr in files, and writes its exit status. A pid is trusted only together
with the start time that was written down with it, so a reused pid is never signalled. One that died is started again in
its directory, with the job that is there, unless somebody has stopped it; its files then go on behind the earlier ones.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

import msgspec

from flcommon.decoding import decoded
from flcommon.identity import lives, start_time
from flcommon.lease import CONTROL_FILE, renew
from flcommon.logend import log_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOB_FILE = "job.json"
EVENTS_FILE = "events.jsonl"
STDOUT_FILE = "stdout"
STDERR_FILE = "stderr"
PROCESS_FILE = "process.json"
EXIT_FILE = "exit.json"
MANIFEST_FILE = "manifest.json"
STOPPED_FILE = "stopped"
"""Lies where a process was stopped: it is not started there any more, by however late a controller."""
LOCK_FILE = ".lock"
MOST_STARTS = 4
"""How often a process is started in its directory, the first time included: a crash loop has an end."""
STOP_GRACE_S = 5.0
STARTED = b"started\n"
PYTHON = (sys.executable, "-P")
"""This interpreter, without the current directory on its path: files in a home directory are not our modules."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
"""Keeps glibc from giving memory back after each message and faulting it in again (docs/decisions/0007)."""
_LOOK_S = 0.01
_MOST_DESCRIPTORS = 1024

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """A process that cannot be mistaken for a later one: its pid (also its group's id) and when it started.

    `started` is what `flcommon.identity.start_time` said of it; `start` counts the starts in its directory, from 1.
    """

    pid: int
    started: str
    start: int = 1


class Exit(msgspec.Struct, frozen=True):
    """How a process ended; a negative status is the signal's number; None: nobody was there to see it."""

    status: int | None


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a start takes from standard input: the job, and what the campaign's server keeps for who attaches later."""

    job: msgspec.Raw
    manifest: msgspec.Raw = msgspec.Raw()


def identify(pid: int, start: int = 1) -> Identity:
    """Return the identity of a process that has just been started."""
    return Identity(pid, start_time(pid) or "gone", start)


def alive(who: Identity) -> bool:
    """Whether that very process still runs."""
    return lives(who.pid, who.started)


def read_identity(directory: Path) -> Identity | None:
    """Return who runs, or ran, in this directory; None if nothing was started."""
    return _read(directory / PROCESS_FILE, Identity)


def read_exit(directory: Path) -> Exit | None:
    """Return how it ended; None if it has not ended, or could not say so (a full disk, a power failure)."""
    return _read(directory / EXIT_FILE, Exit)


@contextmanager
def alone(campaigns: Path) -> Iterator[None]:
    """Hold the host's one lock on starting: of two controllers that start at once, one comes first."""
    campaigns.mkdir(parents=True, exist_ok=True)
    with (campaigns / LOCK_FILE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start(directory: Path, module: str, order: Order) -> None:
    """Make the directory, write the job, start the module on it, detached, and return once it runs.

    Raises SystemExit while a process of another campaign runs on this host, FileExistsError if the directory was used.
    """
    campaigns = directory.parents[1]
    with alone(campaigns):
        _refuse_second(directory)
        directory.mkdir(parents=True)
        for name, content in ((JOB_FILE, order.job), (MANIFEST_FILE, order.manifest)):
            if bytes(content):
                (directory / name).touch(mode=0o600)
                (directory / name).write_bytes(content)
        renew(directory / CONTROL_FILE)  # who starts it is there
        _start_supervisor(directory, module, 1)


def again(directory: Path, module: str) -> int | None:
    """Start the module once more where its process has died; return the number of the last event in the log till then.

    While the process lives nothing is done, and None returned: so that who does not know whether this was done can ask
    again. Raises SystemExit where nothing was started, it was stopped, it has died too often, or another campaign runs.
    """
    with alone(directory.parents[1]):
        who = read_identity(directory)
        if who is not None and alive(who):
            return None
        if (directory / STOPPED_FILE).exists():
            raise SystemExit("it was stopped")
        if not (directory / JOB_FILE).exists():
            raise SystemExit(f"{directory}: nothing was started there")
        start = 2 if who is None else who.start + 1  # unknown only after a power failure just after the first start
        if start > MOST_STARTS:
            raise SystemExit(f"it was started again {MOST_STARTS - 1} times already")
        _refuse_second(directory)
        # First: better an end that nobody saw, should this be cut short, than the end of an earlier process.
        (directory / EXIT_FILE).unlink(missing_ok=True)
        before = last_number(directory / EVENTS_FILE)
        _start_supervisor(directory, module, start)
        return before


def last_number(log: Path) -> int:
    """Return the number of the last event in a log, -1 if there is none."""
    try:
        with log.open("rb") as file:
            return log_end(file.fileno()).number
    except FileNotFoundError:
        return -1


def _refuse_second(directory: Path) -> None:
    """Raise SystemExit while a process of another campaign runs on this host."""
    others = [one for one in running(directory.parents[1]) if one.parent != directory.parent]
    if others:
        raise SystemExit(f"a campaign runs there already ({others[0]})")


def _start_supervisor(directory: Path, module: str, start: int) -> None:
    """Fork the process that outlives this one, and return once its own child runs and is written down.

    A fork and no new interpreter: that would cost a Raspberry Pi a quarter of a second, and 50 hosts on one machine
    a second. This process has a single thread.
    """
    told, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_supervisor(telling, lambda: _supervise(directory, module, start, telling))
    os.close(telling)
    os.waitpid(pid, 0)  # it has forked again: the supervisor is nobody's child
    with os.fdopen(told, "rb") as pipe:
        said = pipe.read()
    if said != STARTED:
        raise SystemExit(said.decode(errors="replace") or "the supervisor did not start")


def _become_supervisor(telling: int, supervise: Callable[[], None]) -> NoReturn:
    """Be a daemon (daemon(7)): a session of its own, and no tie to the caller's SSH channel, locks or terminal."""
    status = 1
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            os.closerange(3, telling)
            os.closerange(telling + 1, _MOST_DESCRIPTORS)
            supervise()
        status = 0
    except BaseException as error:  # noqa: BLE001 - nothing of the caller's may run in this process
        with suppress(OSError):
            os.write(telling, f"{type(error).__name__}: {error}".encode(errors="backslashreplace"))
    finally:
        os._exit(status)


def _supervise(directory: Path, module: str, start: int, telling: int) -> None:
    """Run the module, and write down who it is and how it ended."""
    with (directory / STDOUT_FILE).open("ab") as out, (directory / STDERR_FILE).open("ab") as err:
        process = subprocess.Popen(
            [*PYTHON, "-m", module, str(directory / JOB_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**ALLOCATOR, **os.environ},
            process_group=0,
        )
        _write(directory / PROCESS_FILE, identify(process.pid, start))
        os.write(telling, STARTED)
        os.close(telling)
        status = _wait(process)
    _write(directory / EXIT_FILE, Exit(status))


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for its end, end what it left in its group, and return its status.

    What a killed process leaves would hold the memory that its successor needs. As long as nobody has asked for its
    status, its pid is not given to anyone else.
    """
    if hasattr(os, "waitid"):  # macOS: from Python 3.13 on
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def stop(directory: Path, grace_s: float = STOP_GRACE_S) -> bool:
    """End the process group that was started here, for good; True if there was anything to end.

    A start that is under way is waited for, one that has not begun finds the directory used, or where it was stopped.
    """
    with alone(directory.parents[1]):
        who = read_identity(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # a full disk keeps nobody from ending what filled it
            (directory / STOPPED_FILE).touch()
    if who is None or not alive(who):
        return False
    for sign, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        with suppress(ProcessLookupError):
            os.killpg(who.pid, sign)
        if _gone_within(who, patience_s):
            break
    return True


def running(below: Path) -> list[Path]:
    """Return the directories (campaign/host) below a host's campaigns directory whose process is alive."""
    found = ((path.parent, read_identity(path.parent)) for path in sorted(below.glob(f"*/*/{PROCESS_FILE}")))
    return [directory for directory, who in found if who is not None and alive(who)]


def _gone_within(who: Identity, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while alive(who):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return decoded(msgspec.json.Decoder(kind).decode, path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None


def _write(path: Path, value: msgspec.Struct) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    draft = path.with_suffix(".tmp")
    draft.write_bytes(msgspec.json.encode(value))
    draft.replace(path)
