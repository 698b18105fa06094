"""Runs on a host: the look of `look.py`, and the slow things that only `deploy check` asks for. Changes nothing.

Arguments: those of `look.py`, but before the names of distributions an address whose way is looked at (empty: the way
back to who logged in), and the interface whose traffic might be shaped (empty: none, `?`: the one on that way). Prints
the same JSON object with one more key, `health` (`deploy.health.Health`). What a system does not tell stays unknown:
null.
"""

from __future__ import annotations

import time

FIRST_NS = time.time_ns()
"""When the script began, before its other imports: with the time at its end, it bounds the offset of the clock."""

import os  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import struct  # noqa: E402
import sys  # noqa: E402
from typing import TYPE_CHECKING, TypeVar  # noqa: E402

from deploy.hostside.look import encoded, entries, facts, text  # noqa: E402
from deploy.hostside.tools import environment, told  # noqa: E402
from deploy.hostside.traffic import may_sudo, traffic  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")
STA_UNSYNC = 0x40
ROUTE_REJECTS = 0x200


def after(word: str, said: str | None) -> str | None:
    """Return the word that follows another one, None where it does not appear."""
    words = (said or "").replace(":", " ").replace("=", " ").split()
    return words[words.index(word) + 1] if word in words[:-1] else None


# --- memory, processor -----------------------------------------------------------------------------------------------


def memory_mb(root: str, key: str) -> int | None:
    """Return one line of /proc/meminfo in MiB."""
    value = after(key, text(root + "/proc/meminfo"))
    return None if value is None else int(value) // 1024


def governors(root: str) -> list[str]:
    """Return who sets the speed of the processors; nothing where the kernel does not (most virtual machines)."""
    cpus = root + "/sys/devices/system/cpu"
    return sorted({text(f"{cpus}/{name}/cpufreq/scaling_governor").strip() for name in entries(cpus)} - {""})


def throttled(root: str) -> int | None:
    """Return the bits of a Raspberry Pi's `vcgencmd get_throttled`; None on other machines."""
    bits = text(root + "/sys/devices/platform/soc/soc:firmware/get_throttled").strip()
    bits = bits or after("throttled", told("vcgencmd", "get_throttled")) or ""
    return int(bits, 16) if bits else None


# --- network ---------------------------------------------------------------------------------------------------------


def interface(root: str, address: str) -> str | None:
    """Return the interface on the way to an address (default: the SSH client's). Sends nothing to it."""
    address = address or os.environ.get("SSH_CONNECTION", "").partition(" ")[0]
    if not address:
        return None
    family, _, _, _, place = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
    if len(place) == 4 and place[3]:  # noqa: PLR2004 - IPv6: a link-local address says itself which
        return socket.if_indextoname(place[3])
    packed = socket.inet_pton(family, str(place[0]))
    if sys.platform == "darwin":
        return after("interface", told("route", "-n", "get", str(place[0])))
    routes = routes_4(root) if family == socket.AF_INET else routes_6(root)
    wanted, width = int.from_bytes(packed, "big"), 8 * len(packed)
    fitting = [
        (bits, -metric, name) for net, bits, metric, name in routes if wanted >> (width - bits) == net >> (width - bits)
    ]
    return max(fitting)[2] if fitting else None


def routes_4(root: str) -> list[tuple[int, int, int, str]]:
    """Return network, length of the prefix, metric and interface of the IPv4 routes."""
    found = [(127 << 24, 8, 0, "lo")]  # of the local table, which is not told
    for line in text(root + "/proc/net/route").splitlines()[1:]:
        name, net, _, flags, _, _, metric, mask = line.split()[:8]
        if not int(flags, 16) & ROUTE_REJECTS:
            bits = bin(int(mask, 16)).count("1")  # noqa: FURB161 - bit_count is new in Python 3.10
            found.append((swapped(net), bits, int(metric), name))
    return found


def swapped(words: str) -> int:
    """Return the number that an address in the kernel's byte order is."""
    return int.from_bytes(int(words, 16).to_bytes(4, sys.byteorder), "big")


def routes_6(root: str) -> list[tuple[int, int, int, str]]:
    """Return the same of the IPv6 routes."""
    found = []
    for line in text(root + "/proc/net/ipv6_route").splitlines():
        net, bits, _, _, _, metric, _, _, flags, name = line.split()
        if not int(flags, 16) & ROUTE_REJECTS:
            found.append((int(net, 16), int(bits, 16), int(metric, 16), name))
    return found


def is_wireless(root: str, name: str) -> bool:
    """Tell whether an interface is Wi-Fi."""
    return any(os.path.exists(f"{root}/sys/class/net/{name}/{entry}") for entry in ("wireless", "phy80211"))


def power_save(name: str) -> bool | None:
    """Tell whether a Wi-Fi interface sleeps between packets; None if there is no tool to ask."""
    said = after("save", told("iw", "dev", name, "get", "power_save"))
    said = said or after("Management", told("iwconfig", name))
    return None if said is None else said == "on"


# --- clock, traffic control, sleep -----------------------------------------------------------------------------------


def is_synchronised() -> bool | None:
    """Tell whether something keeps the clock right, by adjtimex(2); None where there is no such call."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # noqa: PLC0415 - not every Python has it

    timex = ctypes.create_string_buffer(512)  # zeros: only asks
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return None
    status = struct.unpack_from("@Illlli", timex)[5]
    return not status & STA_UNSYNC


def has_netem(root: str) -> bool | None:
    """Tell whether the kernel has `sch_netem`, loaded, built in or as a module; None if that cannot be seen."""
    modules = f"{root}/lib/modules/{os.uname().release}"
    if os.path.exists(root + "/sys/module/sch_netem"):
        return True
    if os.path.isdir(modules):
        return any("/sch_netem.ko" in text(f"{modules}/{name}") for name in ("modules.dep", "modules.builtin"))
    try:
        import gzip  # noqa: PLC0415 - rarely needed

        with gzip.open(root + "/proc/config.gz") as config:
            return b"CONFIG_NET_SCH_NETEM=" in config.read()
    except (OSError, EOFError, ImportError):
        return None


def has_battery(root: str) -> bool:
    """Tell whether the machine runs on a battery of its own, not only its mouse."""
    supplies = root + "/sys/class/power_supply"
    return any(
        text(f"{supplies}/{name}/type").strip() == "Battery" and text(f"{supplies}/{name}/scope").strip() != "Device"
        for name in entries(supplies)
    )


def sleeps(root: str) -> list[str]:
    """Return what puts the machine to sleep: `lid`, `idle`."""
    if sys.platform == "darwin":
        said = told("pmset", "-g") or ""
        return ["idle"] if "sleep prevented by" not in said and after("sleep", said) not in (None, "0") else []
    systemd = os.path.isdir(root + "/run/systemd/system")
    if not systemd or not has_battery(root) or is_masked(root):
        return []
    login = login_settings(root)
    lid = entries(root + "/proc/acpi/button/lid") and login.get("HandleLidSwitch", "suspend") not in ("ignore", "lock")
    idle = login.get("IdleAction", "ignore") not in ("ignore", "lock")
    return ["lid"] * bool(lid) + ["idle"] * idle


def is_masked(root: str) -> bool:
    """Tell whether systemd is forbidden to put the machine to sleep."""
    places = [f"{root}/{place}/systemd/system/sleep.target" for place in ("etc", "run")]
    return any(os.path.islink(place) and os.readlink(place) == os.devnull for place in places)


def login_settings(root: str) -> dict[str, str]:
    """Return what logind.conf(5) and its drop-ins say: of the latter the last by name, whatever their directory."""
    files = {
        name: f"{root}/{place}/systemd/logind.conf.d/{name}"
        for place in ("usr/lib", "run", "etc")
        for name in entries(f"{root}/{place}/systemd/logind.conf.d")
        if name.endswith(".conf")
    }
    found = {}
    for path in (f"{root}/etc/systemd/logind.conf", *(files[name] for name in sorted(files))):
        for line in text(path).splitlines():
            key, equals, value = line.partition("=")
            if equals and not key.lstrip().startswith(("#", ";")):
                found[key.strip()] = value.strip()
    return found


# --- all of it -------------------------------------------------------------------------------------------------------


def known(ask: Callable[..., Answer], *arguments: str) -> Answer | None:
    """Ask; a question that fails on an unexpected answer is one without an answer."""
    try:
        return ask(*arguments)
    except (OSError, ValueError, LookupError, ImportError, AttributeError):
        return None


def health(root: str, address: str, shaped: str) -> dict[str, object]:
    """Ask everything."""
    way = known(interface, root, address)
    wireless = bool(way) and is_wireless(root, str(way))
    path = environment()["PATH"]
    return {
        "memory_free_mb": known(memory_mb, root, "MemAvailable"),
        "swap_free_mb": known(memory_mb, root, "SwapFree"),
        "governors": known(governors, root) or [],
        "throttled": known(throttled, root),
        "interface": way or "",
        "wireless": wireless,
        "power_save": known(power_save, str(way)) if wireless else None,
        "synchronised": known(is_synchronised),
        "tc": shutil.which("tc", path=path) is not None if sys.platform.startswith("linux") else None,
        "netem": known(has_netem, root),
        "sudo": may_sudo(),
        "sleeps": known(sleeps, root) or [],
        "traffic": known(traffic, way or "" if shaped == "?" else shaped) if shaped else None,
        "first_ns": FIRST_NS,
        "last_ns": time.time_ns(),
    }


def main() -> None:
    """Look, and print."""
    trouble, workdir, root, address, shaped = sys.argv[1:6]
    found = facts(trouble, workdir, root, sys.argv[6:])
    found["health"] = health(root, address, shaped)
    print(encoded(found))


if __name__ == "__main__":
    main()
