"""Shapes a client's link by the host's kernel: `python -m flclient.link.kernel`, as root, speaking `protocol`.

    (no argument)  be told what to shape on standard input, until it ends
    --check        read a `Setup`, and answer whether it could be done, having touched nothing of the host's
    --clean        remove what a killed keeper left on this host, and print what that was

It keeps what it has put there, in a session of its own, so that it outlives a killed client just long enough to take
it away: at the end of standard input, at a signal, when its parent is gone. While no controller is there
(`flcommon.lease`) the link is natural too. A `Set` for later is answered when it comes true. See `flclient.link.tc` for
what a drop is.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flclient.link.ears import Ears, Ended, say
from flclient.link.errors import LinkError
from flclient.link.protocol import (
    AnyRequest,
    Applied,
    Broke,
    Clear,
    Mark,
    Natural,
    Ready,
    Restored,
    Set,
    Setup,
    Used,
    requests,
)
from flclient.link.rules import Counters, Rules, remove
from flclient.link.target import find_target, interfaces
from flclient.link.tc import is_whole
from flclient.link.tools import find_tools
from flcommon.lease import is_held
from flcommon.link import NATURAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flclient.link.target import Interface
    from flclient.link.tools import Tools

_LOOK_S = 1.0
"""How often it looks whether the controller and the client are there."""
_BUSY_S = 3.0
"""How long it waits for the keeper of a client that has just died."""
_ENVIRONMENT = "/usr/bin/env"


def command(*, is_root: bool) -> list[str]:
    """Return the argv that starts this module, from this code and with this Python's packages.

    sudo drops PYTHONPATH and sets another HOME, so the path is said in full.
    """
    path = os.pathsep.join(each for each in sys.path if each)
    sudo = [] if is_root else ["sudo", "-n"]
    return [*sudo, _ENVIRONMENT, f"PYTHONPATH={path}", sys.executable, "-P", "-m", "flclient.link.kernel"]


class Keeper:
    """What a client wants of its link, and what it has: natural while no controller is there."""

    def __init__(self, setup: Setup, rules: Rules, tools: Tools, interface: Interface) -> None:
        self._setup, self._rules, self._tools, self._interface = setup, rules, tools, interface
        self._wish: Set | None = None
        self._due: list[Set] = []
        self._lifted = False
        self._seen = {True: Counters(), False: Counters()}

    @property
    def next_ns(self) -> int | None:
        """When the next of what was sent ahead comes true."""
        return self._due[0].at_ns if self._due else None

    def hear(self, request: AnyRequest) -> None:
        """Do what is asked, and answer."""
        match request:
            case Set(at_ns=int()):
                self._due = sorted([*self._due, request], key=lambda one: one.at_ns or 0)
            case Set():
                self._due = []
                self._apply(request)
            case Clear():
                self._due = []
                self._clear(request)
            case Mark():
                say(self._used(request))
            case _:
                raise LinkError("a second setup: one process shapes one link")

    def come_true(self) -> None:
        """Do what was sent ahead, as far as its time has come."""
        while self._due and (self._due[0].at_ns or 0) <= time.monotonic_ns():
            self._apply(self._due.pop(0))

    def look(self) -> None:
        """Take the link off, or put it back, if the controller has gone, or has come back."""
        held = not self._setup.lease or is_held(Path(self._setup.lease), self._setup.lease_s)
        if not held and not self._lifted:
            wrong = self.lift()
            if wrong:
                raise LinkError("; ".join(wrong))
            say(Natural(reason=f"no controller has been heard of for {self._setup.lease_s:g} s"))
        elif held and self._lifted:
            self._rules.install()
            self._forget()
            self._lifted = False
            if self._wish is not None:
                self._rules.set(self._wish.up, self._wish.down)
            say(Restored())

    def lift(self) -> list[str]:
        """Take everything off the host; returns what could not be, after trying all of it."""
        self._lifted = True
        try:
            done = remove(self._tools, self._interface)
        except LinkError as error:
            done = {self._interface.name: str(error)}
        return [f"{what} of this host could not be put back: {why}" for what, why in done.items() if why]

    def _apply(self, wish: Set) -> None:
        self._wish = wish
        ways = {} if self._lifted else self._rules.set(wish.up, wish.down)
        say(Applied(number=wish.number, mono_ns=time.monotonic_ns(), up=ways.get("up"), down=ways.get("down")))

    def _clear(self, request: Clear) -> None:
        self._wish = None
        if not self._lifted:
            self._rules.set(NATURAL, NATURAL)
        say(Applied(number=request.number, mono_ns=time.monotonic_ns()))

    def _used(self, mark: Mark) -> Used:
        """Return what netem did since the last mark; nothing is known of a direction that is natural."""
        wish = None if self._wish is None else self._wish.up if mark.up else self._wish.down
        if self._lifted or wish is None or wish.natural:
            return Used(message=mark.message, up=mark.up)
        now, before = self._rules.counters()[0 if mark.up else 1], self._seen[mark.up]
        self._seen[mark.up] = now
        if now.bytes < before.bytes:  # netem was made anew, and began at 0
            before = Counters()
        drops = now.drops - before.drops
        unknown = not mark.up and is_whole(wish)  # of what a driver has joined, it may not tell how many packets it was
        lossy = bool(wish.loss_pct) or wish.loss_burst is not None
        return Used(
            message=mark.message,
            up=mark.up,
            size_bytes=now.bytes - before.bytes,
            packets=None if unknown else now.packets - before.packets,
            dropped=drops if lossy else 0,
            overflowed=None if lossy else drops,
        )

    def _forget(self) -> None:
        self._seen = {True: Counters(), False: Counters()}


def serve(ears: Ears) -> None:
    """Shape one link from its setup to its end."""
    tools = find_tools()
    setup = _first(ears)
    target = find_target(setup.server, setup.interface, tools)
    with _alone(target.interface) as lock:
        _take(target.interface, tools, lock=lock)
        rules = Rules(tools, target)
        rules.install()
        keeper = Keeper(setup, rules, tools, target.interface)
        wrong: list[str] = []
        try:
            say(Ready(about=rules.about()))
            _listen(ears, keeper)
        except Ended:
            pass
        except (LinkError, msgspec.MsgspecError) as error:
            wrong.append(str(error))
        finally:
            wrong += keeper.lift()
        if wrong:
            raise LinkError("; ".join(wrong))


def check(ears: Ears) -> None:
    """Say whether the link of a setup could be shaped."""
    tools = find_tools()
    setup = _first(ears)
    target = find_target(setup.server, setup.interface, tools)
    with _alone(target.interface) as lock:
        _take(target.interface, tools, lock=lock)
        rules = Rules(tools, target)
        try:
            rules.check()
        finally:
            remove(tools, target.interface)
    say(Ready(about=rules.about()))


def clean(_ears: Ears) -> None:
    """Remove what is left on every interface, but for those with a living keeper; LinkError if some of it stays."""
    tools, failed = find_tools(), []
    for interface in interfaces():
        with _alone(interface, patience_s=0.0) as lock:
            done = remove(tools, interface) if lock else {}
        for what, why in done.items():
            print(f"{what}: {'removed' if why is None else why}")  # noqa: T201 - for the controller
        failed += [f"{what}: {why}" for what, why in done.items() if why]
    if failed:
        raise LinkError("; ".join(failed))


def main(arguments: Sequence[str]) -> int:
    """Do what the argument says, and return the exit status: 1 after saying what broke."""
    with suppress(PermissionError):  # it leads one already
        os.setsid()
    ears = Ears()
    try:
        {"": serve, "--check": check, "--clean": clean}["".join(arguments)](ears)
    except Ended:
        return 0
    except (LinkError, msgspec.MsgspecError) as error:
        with suppress(Ended):
            say(Broke(reason=str(error)))
        return 1
    return 0


def _listen(ears: Ears, keeper: Keeper) -> None:
    looked = -_LOOK_S
    while True:
        if time.monotonic() - looked >= _LOOK_S:
            keeper.look()
            looked = time.monotonic()
        keeper.come_true()
        patience_s = looked + _LOOK_S - time.monotonic()
        if keeper.next_ns is not None:
            patience_s = min(patience_s, (keeper.next_ns - time.monotonic_ns()) / 1e9)
        said = ears.hear(patience_s)
        if said is not None:
            keeper.hear(requests.decode(said))


def _first(ears: Ears) -> Setup:
    said = None
    while said is None:
        said = ears.hear(_LOOK_S)
    setup = requests.decode(said)
    if not isinstance(setup, Setup):
        raise LinkError("the first thing to be said is the setup")
    return setup


@contextmanager
def _alone(interface: Interface, patience_s: float = _BUSY_S) -> Iterator[bool]:
    """Be the only keeper of an interface for a with-block; gives whether that is so, not at once if there is another.

    The lock is an abstract socket's name: it goes with the process, and each network namespace has its own.
    """
    deadline = time.monotonic() + patience_s
    with socket.socket(socket.AF_UNIX) as lock:
        while True:
            try:
                lock.bind(f"\0fieldlab-link-{interface.index}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise LinkError(f"no lock for {interface.name}: {error.strerror}") from error
                if time.monotonic() > deadline:
                    yield False
                    return
                time.sleep(0.05)
            else:
                yield True
                return


def _take(interface: Interface, tools: Tools, *, lock: bool) -> None:
    """Make sure that an interface has nothing of ours from earlier; LinkError."""
    if not lock:
        raise LinkError(
            f"another client on this host has its link shaped on {interface.name}: of clients that share an interface,"
            " one can be shaped by the kernel, the others by the relay"
        )
    wrong = [f"{what}: {why}" for what, why in remove(tools, interface).items() if why]
    if wrong:
        raise LinkError(f"what an earlier run left on {interface.name} cannot be removed: {'; '.join(wrong)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
