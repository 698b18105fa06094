"""The same work on many hosts at once: every result by name, or one error that holds every host's.

Also opens many connections at once and takes back exactly those that were opened. Knows nothing of SSH.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

from deploy.errors import DeployError, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from deploy.inventory import Host
    from deploy.remote.protocol import Remote

T = TypeVar("T")
R = TypeVar("R")

WIDE = 50
"""Threads for what mostly waits: connecting, looking. Bulk transfer wants about 8: Python threads fight for the GIL."""


def fan_out(items: Mapping[str, T], work: Callable[[T], R], *, width: int = WIDE) -> dict[str, R]:
    """Do `work` on the item of every host, `width` at a time, and return the results in the items' order.

    All are tried, whatever fails. One host's failure is raised as it is, several as a LabError; an exception that is
    not a DeployError is a bug and goes first. An interrupt does not wait for work that has begun: closing the
    connections ends it.
    """
    pool = ThreadPoolExecutor(max_workers=max(1, min(width, len(items))), thread_name_prefix="fan-out")
    try:
        futures = {name: pool.submit(work, item) for name, item in items.items()}
        wait(futures.values())
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    _raise_failures(futures)
    return {name: future.result() for name, future in futures.items()}


@contextlib.contextmanager
def connect_all(hosts: Iterable[Host], connect: Callable[[Host], Remote]) -> Iterator[dict[str, Remote]]:
    """Connect to all hosts at once for the length of a with-block; all or none.

    If one fails, or on Ctrl-C, those that are open are closed again, the last first. A close that fails does not keep
    the others from being closed, and never hides the error that came first.
    """
    with _opened() as opened:
        yield fan_out({host.name: host for host in hosts}, lambda host: opened.keep(connect(host)))


@contextlib.contextmanager
def connect_some(hosts: Iterable[Host], connect: Callable[[Host], Remote]) -> Iterator[dict[str, Remote | DeployError]]:
    """The same, but a host that cannot be reached is an answer like any other, and the others stay open."""

    def tried(host: Host) -> Remote | DeployError:
        try:
            return opened.keep(connect(host))
        except DeployError as error:
            return error

    with _opened() as opened:
        yield fan_out({host.name: host for host in hosts}, tried)


def ask_all(
    hosts: Iterable[Host], connect: Callable[[Host], Remote], ask: Callable[[Host, Remote], R]
) -> dict[str, R | DeployError]:
    """Ask all hosts at once, each over a connection of its own; one that fails is an answer like any other."""

    def answer(host: Host) -> R | DeployError:
        try:
            with contextlib.closing(connect(host)) as remote:
                return ask(host, remote)
        except DeployError as error:
            return error

    return fan_out({host.name: host for host in hosts}, answer)


@contextlib.contextmanager
def _opened() -> Iterator[_Opened]:
    """Close all that was opened when the with-block is left, however it is left."""
    opened = _Opened()
    try:
        yield opened
    except BaseException as error:
        for failure in opened.close():
            error.add_note(f"and then, while closing: {failure}")
        raise
    if failures := opened.close():
        raise failures[0]


class _Opened:
    """The connections that are open, in the order in which they were opened by many threads."""

    def __init__(self) -> None:
        self._lock, self._over = threading.Lock(), False
        self._remotes: list[Remote] = []

    def keep(self, remote: Remote) -> Remote:
        """Take a new connection; close it at once if all are being closed (its thread was still connecting)."""
        with self._lock:
            late = self._over
            if not late:
                self._remotes.append(remote)
        if late:
            remote.close()
        return remote

    def close(self) -> list[BaseException]:
        """Close all, the last first, and return what went wrong."""
        with self._lock:
            self._over = True
        failures: list[BaseException] = []
        while self._remotes:
            try:
                self._remotes.pop().close()
            except BaseException as error:  # noqa: BLE001 - Ctrl-C too: the other hosts still have to be closed
                failures.append(error)
        return failures


def _raise_failures(futures: Mapping[str, Future[R]]) -> None:
    errors = {name: error for name, future in futures.items() if (error := future.exception()) is not None}
    failures = {name: error for name, error in errors.items() if isinstance(error, DeployError)}
    if len(failures) < len(errors):
        raise next(error for error in errors.values() if not isinstance(error, DeployError))
    if failures:
        raise together(failures)
