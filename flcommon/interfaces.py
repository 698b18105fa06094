"""The network interfaces of this host and what they have carried; of wireless ones, how well they hear.

From /proc/net, which is that of the process's own network namespace, as /sys/class/net is not always. Wireless comes
by the wireless extensions: whoever has none of those in its kernel is taken for wired.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from flcommon.events import Interface
from flcommon.kernelfiles import contents, signed, whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOST = 8
"""A host of containers has an interface for each of them: so many, and those that have carried the most."""
_COUNTERS, _SENT = 16, 8
"""Numbers in a line of /proc/net/dev, and where those of the sending side begin."""
_WIRELESS = 7
"""Numbers of a line of /proc/net/wireless up to the retries."""
_NOTHING_HEARD = -256
_SIOCGIWRATE = 0x8B21
_REQUEST = struct.Struct("16sIHH8x")
"""struct iwreq of linux/wireless.h: a name, and of a rate its bits per second; these wrap at 2**32."""


class Heard(NamedTuple):
    """How well a wireless interface hears; None: its driver does not tell."""

    quality: float | None
    signal_dbm: float | None
    noise_dbm: float | None
    retries: int | None


def interfaces(net: Path, bit_rate: Callable[[str], float | None] | None = None) -> dict[str, Interface]:
    """Return those that have ever carried a packet, but for loopback; `net` is /proc/net, or a copy of it."""
    heard = wireless(contents(net / "wireless"))
    rates = {name: (bit_rate or bit_rate_mbit)(name) for name in heard}
    found = {}
    for name, numbers in counters(contents(net / "dev")).items():
        air = heard.get(name, Heard(None, None, None, None))
        found[name] = Interface(
            received_bytes=numbers[0],
            received_packets=numbers[1],
            sent_bytes=numbers[_SENT],
            sent_packets=numbers[_SENT + 1],
            errors=numbers[2] + numbers[_SENT + 2],
            dropped=numbers[3] + numbers[_SENT + 3],
            **air._asdict(),
            bit_rate_mbit=rates.get(name),
        )
    return found


def counters(dev: bytes) -> dict[str, list[int]]:
    """Return the numbers in /proc/net/dev (proc(5)) by interface, loopback and those without traffic left out."""
    found: dict[str, list[int]] = {}
    for line in dev.splitlines():
        name, colon, rest = line.partition(b":")
        numbers = [number for word in rest.split() if (number := whole(word)) is not None]
        if colon and len(numbers) == _COUNTERS and any(numbers) and name.strip() != b"lo":
            found[_text(name)] = numbers
    busiest = sorted(found, key=lambda name: found[name][0] + found[name][_SENT], reverse=True)[:MOST]
    return {name: found[name] for name in sorted(busiest)}


def wireless(table: bytes) -> dict[str, Heard]:
    """Return what /proc/net/wireless (iwconfig(8)) says, by interface.

    A level is in dBm if it is below zero; a driver that has another unit of its own says so by a positive one.
    """
    found = {}
    for line in table.splitlines():
        name, colon, rest = line.partition(b":")
        # A value that is new since the last look is followed by a point.
        numbers = [signed(word.rstrip(b".")) for word in rest.split()[1:]]
        if colon and len(numbers) >= _WIRELESS:
            quality, signal, noise = numbers[:3]
            retries = numbers[_WIRELESS - 1]
            found[_text(name)] = Heard(quality, _dbm(signal), _dbm(noise), retries)
    return found


def bit_rate_mbit(name: str) -> float | None:
    """Return the rate at which a wireless interface sends just now; None if it does not tell."""
    try:
        import fcntl  # noqa: PLC0415 - Unix, and only where there is something wireless

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
            answer = fcntl.ioctl(any_, _SIOCGIWRATE, _REQUEST.pack(name.encode(errors="replace"), 0, 0, 0))
    except (OSError, ImportError):
        return None
    _, bits, _, _ = _REQUEST.unpack(answer)
    return bits / 1e6 if bits else None


def _dbm(level: int | None) -> int | None:
    return level if level is not None and _NOTHING_HEARD < level < 0 else None


def _text(name: bytes) -> str:
    return name.strip().decode(errors="replace")
