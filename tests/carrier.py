"""Carries packets between network namespaces, each at its moment: the process behind `tests.cable` (Linux, root).

Knows nothing of the toolkit's own links, whose truth it is. A star: end 0 is the hub, every other end has a way up to
it and a way down; what goes from one of them to another takes both. Reads JSON lines from standard input, the first a
`Plan`, and answers each with one. Ends when the input does; nothing that it made has a name outside of it, so nothing
of it outlives it, however it ends.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploy.providers.netns import calls
from tests.cableplan import Ask, Carried, Change, End, Made, Plan, Told, Way

if TYPE_CHECKING:
    from collections.abc import Callable

HUB = 0
FRAME_BYTES = 14
"""An Ethernet header, which a real link has and a rate counts, and a TUN device has not."""
QUEUE_BYTES = 100_000
"""What a link with a rate keeps waiting, as a router does; what comes on top of it is dropped."""

_MTU = 1500
_BATCH = 16
"""Packets taken from one end before those that are due are passed on again."""
_SPIN_NS = 150_000
"""A sleep may end so much too late: the rest is waited for awake."""
_TUNSETIFF, _TUN, _NO_PACKET_INFO = 0x400454CA, 0x0001, 0x1000
_TIMER_SLACK = 29


class _Line:
    """One direction of one end: a queue in order of time, and how long it really took."""

    def __init__(self, way: Way, chance: random.Random, pass_on: Callable[[bytes, int], bool]) -> None:
        self._chance, self._pass_on = chance, pass_on
        self._queue: deque[tuple[int, int, bytes]] = deque()
        self._free_ns = self._last_ns = 0
        self._held_ns, self._bytes, self._dropped = array.array("q"), 0, 0
        self.become(way)

    def become(self, way: Way) -> None:
        self._way = way
        self._delay_ns = round(way.delay_ms * 1e6)
        self._ns_per_byte = 8000 / way.rate_mbit if way.rate_mbit else 0.0
        self._drop = frozenset(way.drop)
        self._number = 0

    def tell(self) -> Carried:
        """Return what was done, and begin to count anew."""
        held_ms = tuple(ns / 1e6 for ns in self._held_ns)
        told = Carried(packets=len(held_ms), size_bytes=self._bytes, dropped=self._dropped, held_ms=held_ms)
        self._held_ns, self._bytes, self._dropped = array.array("q"), 0, 0
        return told

    def take(self, packet: bytes, at_ns: int) -> None:
        """Take a packet at a moment."""
        self._number += 1
        way = self._way
        lost = way.silent or self._number in self._drop or (way.loss_pct and self._chance.random() * 100 < way.loss_pct)
        if lost or (self._ns_per_byte and (self._free_ns - at_ns) > QUEUE_BYTES * self._ns_per_byte):
            self._dropped += 1
            return
        through_ns = at_ns
        if self._ns_per_byte:
            start_ns = max(at_ns, self._free_ns)
            through_ns = self._free_ns = start_ns + round((len(packet) + FRAME_BYTES) * self._ns_per_byte)
        self._last_ns = max(through_ns + self._delay_ns, self._last_ns)
        self._queue.append((self._last_ns, at_ns, packet))

    def release(self) -> int | None:
        """Pass on what is due; return the moment when the next packet is, None if there is none."""
        queue = self._queue
        while queue:
            due_ns, taken_ns, packet = queue[0]
            at_ns = time.monotonic_ns()
            if due_ns > at_ns:
                return due_ns
            queue.popleft()
            if self._pass_on(packet, at_ns):
                self._held_ns.append(time.monotonic_ns() - taken_ns)
                self._bytes += len(packet)
            else:
                self._dropped += 1
        return None


class Carrier:
    """The ends and the ways between them."""

    def __init__(self, plan: Plan) -> None:
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.namespaces = [self._namespace(end) for end in plan.ends]
        self._devices = [self._device(plan, number) for number in range(len(plan.ends))]
        self._places = {
            IPv4Address(address).packed: number
            for number, end in enumerate(plan.ends)
            for address in (end.address, *end.behind)
        }
        self._give_hub = self._to(HUB)
        seeds = random.Random(1)  # noqa: S311 - losses, the same in each run
        numbers = range(1, len(plan.ends))
        self._downs = {n: _Line(plan.ends[n].down, random.Random(seeds.random()), self._to(n)) for n in numbers}  # noqa: S311
        self._ups = {n: _Line(plan.ends[n].up, random.Random(seeds.random()), self._route) for n in numbers}  # noqa: S311
        # Those up come first: what they pass on to a way down may be due at once.
        self._lines = [*self._ups.values(), *self._downs.values()]

    def _namespace(self, end: End) -> int:
        if end.namespace is not None:
            return os.open(end.namespace, os.O_RDONLY | os.O_CLOEXEC)
        calls.unshare(calls.NEW_NET)
        try:
            _ip("link set lo up")
            return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            calls.come_back(self._own, calls.NEW_NET)

    def _device(self, plan: Plan, number: int) -> int:
        """Make a network interface in a namespace, which is there as long as the file that this returns."""
        end = plan.ends[number]
        far = [address for other in plan.ends if other is not end for address in other.behind]
        with calls.inside(self.namespaces[number], self._own, calls.NEW_NET):
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            flags = _TUN | _NO_PACKET_INFO
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", end.interface.encode(), flags))
            _ip(
                f"link set {end.interface} addrgenmode none",
                f"addr add {end.address}/{plan.bits} dev {end.interface}",
                f"link set {end.interface} mtu {_MTU} txqueuelen 10000 up",
                *(f"route add {address}/32 dev {end.interface}" for address in far),
            )
            if end.behind:
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        return device

    def _to(self, number: int) -> Callable[[bytes, int], bool]:
        """Return what gives a packet to an end; False if that is down."""
        device = self._devices[number]

        def give(packet: bytes, _at_ns: int) -> bool:
            try:
                os.write(device, packet)
            except OSError as error:
                if error.errno not in {errno.EIO, errno.ENOBUFS, errno.EAGAIN}:
                    raise
                return False
            return True

        return give

    def _route(self, packet: bytes, at_ns: int) -> bool:
        """Pass on a packet that is at the hub; one to nowhere is lost, as on a wire that nobody is at."""
        place = self._places.get(packet[16:20]) if packet[0] >> 4 == 4 else None
        if place is None:
            return False
        if place == HUB:
            return self._give_hub(packet, at_ns)
        self._downs[place].take(packet, at_ns)
        return True

    def carry(self, orders: int) -> None:
        """Carry packets and obey orders until there will be no more of either."""
        places = {device: number for number, device in enumerate(self._devices)}
        files = [orders, *self._devices]
        while True:
            due = [moment for line in self._lines if (moment := line.release()) is not None]
            left_ns = min(due) - time.monotonic_ns() - _SPIN_NS if due else None
            ready = select.select(files, [], [], None if left_ns is None else max(0, left_ns) / 1e9)[0]
            for file in ready:
                if file != orders:
                    self._take(file, places[file])
                elif not self._obey(orders):
                    return

    def _take(self, device: int, place: int) -> None:
        for _ in range(_BATCH):
            try:
                packet = os.read(device, 2 * _MTU)
            except OSError as error:
                if error.errno in {errno.EAGAIN, errno.EIO}:  # nothing more; the interface is down
                    return
                raise
            at_ns = time.monotonic_ns()
            if place == HUB:
                self._route(packet, at_ns)
            else:
                self._ups[place].take(packet, at_ns)

    def _obey(self, orders: int) -> bool:
        order = _read_order(orders)
        match order:
            case Change(end=end, up=up, down=down):
                self._ups[end].become(up)
                self._downs[end].become(down)
                _say(Told())
            case Ask(end=end):
                _say(Told(up=self._ups[end].tell(), down=self._downs[end].tell()))
        return order is not None


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _come_first() -> bool:
    """Be woken before all else on this machine and to the microsecond, where that is allowed."""
    gc.disable()
    ctypes.CDLL(None).prctl(_TIMER_SLACK, *(ctypes.c_ulong(number) for number in (1, 0, 0, 0)))
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        with contextlib.suppress(PermissionError):
            os.nice(-20)
        return False
    return True


def _read_order(orders: int) -> Plan | Change | Ask | None:
    """Read one line, which comes in one piece or in several soon after one another; None at the end."""
    said = b""
    while not said.endswith(b"\n"):
        data = os.read(orders, 1 << 16)
        if not data:
            return None
        said += data
    return msgspec.json.decode(said, type=Plan | Change | Ask)


def _say(answer: Made | Told) -> None:
    said = memoryview(msgspec.json.encode(answer) + b"\n")
    while said:
        said = said[os.write(1, said) :]


def main() -> None:
    """Carry until standard input ends."""
    plan = _read_order(0)
    if not isinstance(plan, Plan):
        sys.exit("carrier: the first line must be a plan")
    carrier = Carrier(plan)
    _say(Made(namespaces=tuple(carrier.namespaces), real_time=_come_first()))
    carrier.carry(0)


if __name__ == "__main__":
    main()
