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

from usage import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType, TracebackType

REPOSITORY = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0
"""No single run takes longer, not even on a slow machine."""
_LOOK_S, _SAMPLE_S = 0.02, 0.4
_GRACE_S = 5.0


class BenchmarkFailed(Exception):
    """A process of the benchmark did not do its part; the message holds the end of its stderr."""


class Fleet:
    """The processes of one run. Use it as a context manager; `usage` is what they took.

    `code` is the checkout that they run; `environment` what else they see, for example what glibc's malloc is told.
    """

    def __init__(self, code: Path = REPOSITORY, environment: Mapping[str, str] | None = None) -> None:
        self.usage = Sampler()
        self._running: list[tuple[Path, subprocess.Popen[bytes]]] = []
        self._sampled = 0.0
        # One OpenMP thread each, as on the virtual lab: the processes share this machine's cores.
        ours = {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
        self._environment = {**os.environ, **(environment or {}), **ours}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what still runs, and what that has started: SIGTERM to all, then SIGKILL to those that stay."""
        groups = [process.pid for _, process in self._running if _signal(process.pid, signal.SIGTERM)]
        deadline = time.monotonic() + _GRACE_S
        while groups and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            self._alive()
            groups = [group for group in groups if _signal(group, 0)]
        for group in groups:
            _signal(group, signal.SIGKILL)
        for _, process in self._running:
            process.wait()

    def start(self, directory: Path, argv: Sequence[str]) -> None:
        """Start `python argv` with its output in files of the directory."""
        self._running.append((directory, self._popen(directory, argv)))

    def call(self, directory: Path, argv: Sequence[str]) -> None:
        """Run `python argv` to its end, beside those that run; raises BenchmarkFailed."""
        with self._popen(directory, argv) as process:
            try:
                status = process.wait(TIMEOUT_S)
            except BaseException:
                _signal(process.pid, signal.SIGKILL)
                raise
        if status != 0:
            raise BenchmarkFailed(f"exit status {status}; {_complaint(directory)}")

    def await_true(self, condition: Callable[[], bool], what: str) -> None:
        """Return once the condition holds; raises BenchmarkFailed if a process ends first, or none does in time."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            ended = [directory for directory, process in self._running if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise BenchmarkFailed(f"no {what}; {_complaint(ended[0]) if ended else 'too late'}")
            self._rest()

    def wait(self) -> None:
        """Return once all processes have ended well; raises BenchmarkFailed at the first that has not."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            alive = self._alive()
            for directory, process in self._running:
                if process.returncode:
                    raise BenchmarkFailed(f"exit status {process.returncode}; {_complaint(directory)}")
            if not alive:
                return
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"{', '.join(alive)} did not end")
            self._rest()

    def _popen(self, directory: Path, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        directory.mkdir(exist_ok=True)
        with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err:
            return subprocess.Popen(
                [sys.executable, "-P", *argv],
                cwd=directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=0,
            )

    def _alive(self) -> dict[str, int]:
        return {directory.name: process.pid for directory, process in self._running if process.poll() is None}

    def _rest(self) -> None:
        """Sleep a little, and look at what the processes take when it is time to."""
        if time.monotonic() - self._sampled > _SAMPLE_S:
            self._sampled = time.monotonic()
            self.usage.look(self._alive())
        time.sleep(_LOOK_S)


def _signal(group: int, number: int) -> bool:
    """Send a signal to a process group that we started; False if it is gone."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


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
