"""Starts, watches and stops a detached process in a campaign's directory on its host.

    python -m flcommon.process start DIR MODULE     take a job from stdin, run `python -m MODULE DIR/job.json`, detached
    python -m flcommon.process watch DIR NAME...    print its events of these names as they come, until it has ended
    python -m flcommon.process stop DIR             end its process group: SIGTERM, then SIGKILL
    python -m flcommon.process list DIR             print the directories below DIR whose process is alive

The process outlives the SSH connection and the controller. A small supervisor, in a session of its own, starts it in a
process group of its own, keeps stdout and stderr in files, and writes its exit status. A pid is trusted only together
with the start time that was written down with it, so a reused pid is never signalled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from flcommon.decoding import decoded
from flcommon.identity import lives, start_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

JOB_FILE = "job.json"
EVENTS_FILE = "events.jsonl"
STDOUT_FILE = "stdout"
STDERR_FILE = "stderr"
PROCESS_FILE = "process.json"
EXIT_FILE = "exit.json"
STOP_GRACE_S = 5.0
STARTED = b"started\n"
PYTHON = (sys.executable, "-P")
"""This interpreter, without the current directory on its path: files in a home directory are not our modules."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
"""Keeps glibc from giving memory back after each message and faulting it in again (docs/decisions/0007)."""
_LOOK_S = 0.05
"""How often a watcher looks at the log's size: a stat(2) that costs microseconds."""

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one: its pid (also its group's id) and when it started.

    `started` is what `flcommon.identity.start_time` said of it.
    """

    pid: int
    started: str


class Exit(msgspec.Struct, frozen=True):
    """How a process ended; a negative status is the signal's number; None: nobody was there to see it."""

    status: int | None


class _Name(msgspec.Struct):
    name: str


def identify(pid: int) -> Identity:
    """Return the identity of a process that has just been started."""
    return Identity(pid, start_time(pid) or "gone")


def alive(who: Identity) -> bool:
    """Whether that very process still runs."""
    return lives(who.pid, who.started)


def read_identity(directory: Path) -> Identity | None:
    """Return who runs, or ran, in this directory; None if nothing was started."""
    return _read(directory / PROCESS_FILE, Identity)


def read_exit(directory: Path) -> Exit | None:
    """Return how it ended; None if it has not ended, or could not say so (a full disk, a power failure)."""
    return _read(directory / EXIT_FILE, Exit)


def start(directory: Path, module: str, job: bytes) -> None:
    """Make the directory, write the job, start the module on it, detached, and return once it runs."""
    directory.mkdir(parents=True)
    (directory / JOB_FILE).touch(mode=0o600)
    (directory / JOB_FILE).write_bytes(job)
    argv = [*PYTHON, "-m", "flcommon.process", "supervise", str(directory), module]
    pipe = subprocess.PIPE
    supervisor = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True)
    # The supervisor closes its standard output once the process is started and written down.
    told = supervisor.stdout.read() if supervisor.stdout else b""
    if told != STARTED:
        complaint = supervisor.communicate()[1].decode(errors="replace")
        raise SystemExit(complaint or "the supervisor did not start")
    supervisor.returncode = 0  # it goes on without us: nobody waits for it, and Popen need not warn of that
    for ours in (supervisor.stdout, supervisor.stderr):
        if ours:
            ours.close()


def supervise(directory: Path, module: str) -> None:
    """Run the module, and write down who it is and how it ended. The body of the detached supervisor."""
    with (directory / STDOUT_FILE).open("wb") as out, (directory / STDERR_FILE).open("wb") as err:
        process = subprocess.Popen(
            [*PYTHON, "-m", module, str(directory / JOB_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**ALLOCATOR, **os.environ},
            process_group=0,
        )
        _write(directory / PROCESS_FILE, identify(process.pid))
        _let_go()
        status = process.wait()
    _write(directory / EXIT_FILE, Exit(status))


def watch(directory: Path, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the event lines of these names as they come, and at the end one line that is an `Exit`."""
    wanted = frozenset(names)
    decoder = msgspec.json.Decoder(_Name)
    for line in lines(directory, EVENTS_FILE):
        with suppress(msgspec.MsgspecError):
            if decoded(decoder.decode, line).name in wanted:
                yield line
    yield msgspec.json.encode(read_exit(directory) or Exit(None)) + b"\n"


def stop(directory: Path, grace_s: float = STOP_GRACE_S) -> bool:
    """End the process group that was started here; True if there was anything to end."""
    who = read_identity(directory)
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


def lines(directory: Path, name: str, offset: int = 0) -> Iterator[bytes]:
    """Yield the lines of one of a process's files from an offset on, as they come, until the process has ended.

    A last line without its end comes too, once nothing more can come.
    """
    rest = b""
    while True:
        who = read_identity(directory)
        ended = who is not None and not alive(who)
        if ended:
            _await_exit(directory)
        new = read_from(directory / name, offset)
        offset += len(new)
        *complete, rest = (rest + new).split(b"\n")
        yield from (line + b"\n" for line in complete)
        if ended:
            if rest:
                yield rest + b"\n"
            return
        if not complete:
            time.sleep(_LOOK_S)


def read_from(path: Path, offset: int) -> bytes:
    """Return what a growing file holds from an offset on; nothing if there is no file yet."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""


def _await_exit(directory: Path) -> None:
    """Give the supervisor a moment to write the exit file of a process that has just gone."""
    deadline = time.monotonic() + 1.0
    while read_exit(directory) is None and time.monotonic() < deadline:
        time.sleep(_LOOK_S / 5)


def _gone_within(who: Identity, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while alive(who):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S / 5)
    return True


def _let_go() -> None:
    """Tell `start` that the process runs, and cut every tie to the caller's SSH channel."""
    os.write(1, STARTED)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)


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


def main(arguments: Sequence[str]) -> int:
    """Do one of the verbs; return the exit status."""
    verb, directory, *rest = arguments
    place = Path(directory)
    match verb:
        case "start":
            start(place, rest[0], sys.stdin.buffer.read())
        case "supervise":
            supervise(place, rest[0])
        case "watch":
            print_lines(watch(place, rest))
        case "stop":
            stop(place)
        case "list":
            print_lines(os.fsencode(path) + b"\n" for path in running(place))
        case _:
            raise SystemExit(f"unknown verb {verb}")
    return 0


def print_lines(told: Iterable[bytes]) -> None:
    """Write lines to standard output, each at once."""
    for line in told:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
