"""Network namespaces joined by cables of known one-way delay and rate, for tests against the truth (Linux, root).

Made without anything that it is to test: `carrier.py` holds each packet in user space, and tells how long it really
did. All is gone with the process that holds a `Cable`, however that ends.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import msgspec

from deploy.providers.netns import calls
from tests.cableplan import Ask, Carried, Change, End, Made, Plan, Told, Way

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {"ip": "iproute2", "nsenter": "util-linux"}
OPEN, SILENT = Way(), Way(silent=True)


def why_not(**programs: str) -> str | None:
    """Return why there can be no cable here, or no test that needs these programs too; None if there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "this machine has no /dev/net/tun"
    search = f"{os.defpath}:/usr/sbin:/sbin"
    missing = [
        package for program, package in (PROGRAMS | programs).items() if shutil.which(program, path=search) is None
    ]
    return f"not installed: {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class Both:
    """Both directions of one end's cable; up is towards the hub, which has end 0."""

    up: Way = OPEN
    down: Way = OPEN

    @classmethod
    def of(cls, delay_ms: float, rate_mbit: float | None = None) -> Both:
        """Return the same for both."""
        return cls(Way(delay_ms=delay_ms, rate_mbit=rate_mbit), Way(delay_ms=delay_ms, rate_mbit=rate_mbit))


@dataclass(frozen=True)
class Truth:
    """What a cable really did since it was last asked."""

    up: Carried
    down: Carried

    @property
    def rtt_ms(self) -> float:
        """How long both directions together held a packet: the median, as of a clean measurement."""
        return median(self.up.held_ms) + median(self.down.held_ms)


class Cable:
    """A hub (end 0, the server's) and ends at cables of their own (1, 2, …); `cabled` makes one."""

    def __init__(self, process: subprocess.Popen[bytes], plan: Plan) -> None:
        self._process, self._plan = process, plan
        self._ways = [Both(end.up, end.down) for end in plan.ends]
        self._made = self._ask(plan, Made)

    @property
    def pid(self) -> int:
        """The process without which it is not."""
        return self._process.pid

    @property
    def real_time(self) -> bool:
        """Whether it comes before other processes: without that it is less exact on a busy machine."""
        return self._made.real_time

    def address(self, end: int) -> str:
        return self._plan.ends[end].address

    def inside(self, end: int) -> list[str]:
        """Return what to put before a command, to run it at the hub (0) or at another end."""
        return ["nsenter", f"--net=/proc/{self.pid}/fd/{self._made.namespaces[end]}", "--"]

    def on(self, end: int, *argv: str) -> str:
        """Run a command there, and return its output."""
        return subprocess.run([*self.inside(end), *argv], check=True, capture_output=True, text=True).stdout

    def socket(self, end: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Return an IPv4 socket that is there: this process may use it, and stays where it is."""
        files = (f"/proc/{self.pid}/fd/{self._made.namespaces[end]}", "/proc/thread-self/ns/net")
        there, here = (os.open(file, os.O_RDONLY | os.O_CLOEXEC) for file in files)
        try:
            with calls.inside(there, here, calls.NEW_NET):
                return socket.socket(socket.AF_INET, kind)
        finally:
            os.close(there)
            os.close(here)

    def become(self, end: int, both: Both) -> None:
        """Change an end's cable; what is on its way keeps its moment, and nothing overtakes it."""
        self._ways[end] = both
        self._tell(end, both)

    def truth(self, end: int) -> Truth:
        """Return what an end's cable did since this was last called."""
        told = self._ask(Ask(end=end), Told)
        assert told.up is not None
        assert told.down is not None
        return Truth(told.up, told.down)

    @contextmanager
    def down(self, end: int = 1) -> Iterator[None]:
        """Take an end's interface down, as a Wi-Fi that is out of reach."""
        interface = self._plan.ends[end].interface
        self.on(end, "ip", "link", "set", interface, "down")
        yield
        self.on(end, "ip", "link", "set", interface, "up")

    @contextmanager
    def black_hole(self, end: int = 1) -> Iterator[None]:
        """Let all packets vanish without an error on either side."""
        self._tell(end, Both(SILENT, SILENT))
        yield
        self._tell(end, self._ways[end])

    def _tell(self, end: int, both: Both) -> None:
        self._ask(Change(end=end, up=both.up, down=both.down), Told)

    def _ask(self, order: Plan | Change | Ask, kind: type[T]) -> T:
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the carrier has ended with {self._process.wait()}"
        return msgspec.json.decode(answer, type=kind)


@contextmanager
def carried(ends: Sequence[End], bits: int = 24) -> Iterator[Cable]:
    """Join these ends, the first of them the hub, for the length of a with-block."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    argv = [sys.executable, "-P", str(ROOT / "tests" / "carrier.py")]
    env = os.environ | {"PYTHONPATH": path}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        try:
            yield Cable(process, Plan(ends=tuple(ends), bits=bits))
        finally:
            process.kill()


def cabled(*boths: Both, network: str = "198.18.0") -> AbstractContextManager[Cable]:
    """Make a namespace for the hub, and one at the end of each of these cables, for the length of a with-block."""
    ends = [Both(), *boths]
    return carried([End(address=f"{network}.{n}", up=both.up, down=both.down) for n, both in enumerate(ends, 1)])
