"""The same work on many hosts at once: every result by name, or one error that holds every host's.

Also opens many connections at once and takes back exactly those that were opened. Knows nothing of SSH.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from deploy.errors import DeployError, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from deploy.inventory import Host
    from deploy.remote.protocol import Remote

T = TypeVar("T")
R = TypeVar("R")

WIDE = 50
"""Threads for what mostly waits, for hosts or for links: connecting, looking, preparing."""
NARROW = 8
"""Threads for bulk transfer: work for this machine's CPU, over whose one lock Python's threads fight."""


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What came of the same work on many hosts: every host is in one of the two, both in the hosts' order."""

    results: dict[str, R]
    failures: dict[str, DeployError]


def try_out(items: Mapping[str, T], work: Callable[[T], R], *, width: int = WIDE) -> Outcome[R]:
    """Do `work` on the item of every host, `width` at a time; all are tried, whatever fails.

    An exception that is not a DeployError is a bug and is raised. An interrupt does not wait for work that has begun:
    closing the connections ends it.
    """
    pool = ThreadPoolExecutor(max_workers=max(1, min(width, len(items))), thread_name_prefix="fan-out")
    try:
        futures = {name: pool.submit(work, item) for name, item in items.items()}
        wait(futures.values())
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return _outcome(futures)


def fan_out(items: Mapping[str, T], work: Callable[[T], R], *, width: int = WIDE) -> dict[str, R]:
    """Do `work` on the item of every host, as `try_out` does, and return the results in the items' order.

    One host's failure is raised as it is, several as a LabError.
    """
    outcome = try_out(items, work, width=width)
    if outcome.failures:
        raise together(outcome.failures)
    return outcome.results


@contextlib.contextmanager
def connect_all(hosts: Iterable[Host], connect: Callable[[Host], Remote]) -> Iterator[dict[str, Remote]]:
    """Connect to all hosts at once for the length of a with-block; all or none."""
    with connect_each(hosts, connect) as outcome:
        if outcome.failures:
            raise together(outcome.failures)
        yield outcome.results


@contextlib.contextmanager
def connect_each(hosts: Iterable[Host], connect: Callable[[Host], Remote]) -> Iterator[Outcome[Remote]]:
    """Connect to all hosts at once for the length of a with-block; it is for the caller to say how many are enough.

    At the end, or on Ctrl-C, those that are open are closed again, the last first. A close that fails does not keep
    the others from being closed, and never hides the error that came first.
    """
    with _opened() as opened:
        yield try_out({host.name: host for host in hosts}, lambda host: opened.keep(connect(host)))


def ask_each(hosts: Iterable[Host], connect: Callable[[Host], Remote], ask: Callable[[Host, Remote], R]) -> Outcome[R]:
    """Ask all hosts at once, each over a connection of its own, whatever fails on others."""

    def answer(host: Host) -> R:
        with contextlib.closing(connect(host)) as remote:
            return ask(host, remote)

    return try_out({host.name: host for host in hosts}, answer)


def ask_all(
    hosts: Sequence[Host], connect: Callable[[Host], Remote], ask: Callable[[Host, Remote], R]
) -> dict[str, R | DeployError]:
    """Ask all hosts at once, as `ask_each` does; one that fails is an answer like any other, in the hosts' order."""
    told = ask_each(hosts, connect, ask)
    return {host.name: told.failures.get(host.name) or told.results[host.name] for host in hosts}


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


def _outcome(futures: Mapping[str, Future[R]]) -> Outcome[R]:
    errors = {name: error for name, future in futures.items() if (error := future.exception()) is not None}
    failures = {name: error for name, error in errors.items() if isinstance(error, DeployError)}
    if len(failures) < len(errors):
        raise next(error for error in errors.values() if not isinstance(error, DeployError))
    return Outcome({name: future.result() for name, future in futures.items() if name not in failures}, failures)
