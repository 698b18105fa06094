"""Starts a benchmark's processes as children and ends them however the benchmark ends, Ctrl-C included.

Each process gets a directory with its stdout and stderr. A process is ended by its own handle, never by name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType, TracebackType

REPOSITORY = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0
"""No single run takes longer, not even on a slow machine."""
_LOOK_S = 0.02
_GRACE_S = 5.0


class BenchmarkFailed(Exception):
    """A process of the benchmark did not do its part; the message holds the end of its stderr."""


class Fleet:
    """The processes of one run. Use it as a context manager.

    `code` is the checkout that they run; `allocator` what the environment tells glibc's malloc.
    """

    def __init__(self, code: Path = REPOSITORY, allocator: Mapping[str, str] | None = None) -> None:
        self._running: list[tuple[Path, subprocess.Popen[bytes]]] = []
        # One OpenMP thread each, as on the virtual lab: the processes share this machine's cores.
        ours = {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
        self._environment = {**(allocator or {}), **os.environ, **ours}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what still runs: SIGTERM to all, then SIGKILL to those that stay."""
        alive = [process for _, process in self._running if process.poll() is None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for process in alive:
            _end(process, deadline)

    def start(self, directory: Path, argv: Sequence[str]) -> None:
        """Start `python argv` with its output in files of the directory."""
        directory.mkdir(exist_ok=True)
        with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-P", *argv],
                cwd=directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self._running.append((directory, process))

    def await_true(self, condition: Callable[[], bool], what: str) -> None:
        """Return once the condition holds; raises BenchmarkFailed if a process ends first, or none does in time."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            ended = [directory for directory, process in self._running if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise BenchmarkFailed(f"no {what}; {_complaint(ended[0]) if ended else 'too late'}")
            time.sleep(_LOOK_S)

    def wait(self) -> None:
        """Return once all processes have ended well; raises BenchmarkFailed."""
        deadline = time.monotonic() + TIMEOUT_S
        for directory, process in self._running:
            try:
                status = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise BenchmarkFailed(f"{directory.name} does not end") from error
            if status != 0:
                raise BenchmarkFailed(f"exit status {status}; {_complaint(directory)}")


def _end(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _complaint(directory: Path) -> str:
    lines = (directory / "stderr").read_text(errors="replace").splitlines()
    return f"{directory.name} says: " + ("\n".join(lines[-10:]) or "nothing")


def exit_status(main: Callable[[], int]) -> int:
    """Run a benchmark's `main`; SIGTERM unwinds it as Ctrl-C does, so that its processes end with it."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        return main()
    except KeyboardInterrupt:
        return 130
    except BenchmarkFailed as error:
        print(error, file=sys.stderr)
        return 1


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)
