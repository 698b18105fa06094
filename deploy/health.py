"""The look of `deploy check`: facts, and what makes a host's measurements bad although a run can start there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deploy import hostside
from deploy.facts import IDENTITY, Facts, Finding, ask, understood, uses_torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.app import App
    from deploy.inventory import Host
    from deploy.remote.protocol import Remote

TORCH_MB = 800
"""What a process that trains with PyTorch takes, measured: 0.6 to 0.8 GB."""
UNSTEADY = ("conservative", "ondemand", "powersave", "schedutil")
"""CPU governors that change the speed while it is measured."""
THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of `vcgencmd get_throttled`: that it is so now; 16 places further up, that it was so since the last boot."""
SINCE_BOOT = 16
ROUTES_OWN = "?"
"""Stands for the interface on the way to the server."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What `deploy.hostside.traffic` says of a client's host, only where a playbook has links.

    `interface` is the one to be shaped, `missing` programs that are not installed, `root` whether we may become that,
    `refused` what the kernel will not do (None: that could not be tried), `qdiscs` what others have put on the
    interface, as `kind handle place`.
    """

    interface: str = ""
    missing: tuple[str, ...] = ()
    root: bool = False
    refused: str | None = None
    qdiscs: tuple[str, ...] = ()


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What `deploy.hostside.health` prints, sizes in MiB; None and empty: unknown, or there is no such thing.

    `throttled` are the bits of a Raspberry Pi's firmware, `interface` the one towards the server (on the server: to the
    controller), `sleeps` what puts the machine to sleep (`lid`, `idle`); `first_ns` and `last_ns` are wall clock.
    """

    memory_free_mb: int | None = None
    swap_free_mb: int | None = None
    governors: tuple[str, ...] = ()
    throttled: int | None = None
    interface: str = ""
    wireless: bool = False
    power_save: bool | None = None
    synchronised: bool | None = None
    tc: bool | None = None
    netem: bool | None = None
    sudo: bool | None = None
    sleeps: tuple[str, ...] = ()
    traffic: Traffic | None = None
    first_ns: int | None = None
    last_ns: int | None = None


class Clock(msgspec.Struct, frozen=True):
    """How far a host's clock is ahead of the controller's: surely within `offset_s` ± `error_s`."""

    offset_s: float
    error_s: float


@dataclass(frozen=True)
class Examined:
    """All that is known of a host after its one look; no clock if there was no Python to read it."""

    facts: Facts
    health: Health
    clock: Clock | None


class _Told(msgspec.Struct):
    health: Health = Health()


def examine(
    host: Host, remote: Remote, server: str, distributions: Sequence[str] = (), *, shaped: bool = False
) -> Examined:
    """Look at a host closely, in one round trip; `server` is the address that its clients use. Raises HostError.

    `distributions` are looked for as in `deploy.facts.look`; `shaped`: a link is asked for on this host.
    """
    interface = (host.interface or ROUTES_OWN) if shaped else ""
    words = ("", server if host.role == "client" else "", interface, *distributions)
    script = hostside.program("health", IDENTITY, *(f"deploy.hostside.{part}" for part in ("look", "tools", "traffic")))
    sent_ns = time.time_ns()
    told = ask(host, remote, script, words)
    received_ns = time.time_ns()
    health = understood(remote, told, _Told).health
    return Examined(understood(remote, told, Facts), health, _clock(health, sent_ns, received_ns))


def ailments(seen: Examined, app: App) -> list[Finding]:
    """Return what spoils measurements on this host, or a run of this app."""
    found = [*_memory(seen.health, app), *_speed(seen.health), *_network(seen.health), *_sleep(seen)]
    if seen.health.synchronised is False:
        what = "nothing keeps its clock right: it drifts during a run"
        found.append(Finding("warning", "clock-unsynchronised", what, keep_time(seen.facts)))
    return found


def keep_time(facts: Facts) -> str:
    """Return the command that has a host's clock set by the network."""
    mac = facts.system == "Darwin"
    return "sudo systemsetup -setusingnetworktime on" if mac else "sudo timedatectl set-ntp true"


def _clock(health: Health, sent_ns: int, received_ns: int) -> Clock | None:
    """Return the offset that one exchange bounds: the host's first stamp came after we sent, its last before we heard.

    What the host did between its stamps is no part of the uncertainty, which is half of the rest. A clock that was set
    meanwhile has none.
    """
    if health.first_ns is None or health.last_ns is None:
        return None
    highest, lowest = health.first_ns - sent_ns, health.last_ns - received_ns
    if highest < lowest:
        return None
    return Clock(offset_s=(highest + lowest) / 2e9, error_s=(highest - lowest) / 2e9)


def _memory(health: Health, app: App) -> list[Finding]:
    free, swap = health.memory_free_mb, health.swap_free_mb or 0
    if free is None or free >= TORCH_MB or not uses_torch(app):
        return []
    what = f"only {free} MB of memory are free, and a process that trains with torch takes about {TORCH_MB} MB"
    fix = "end other programs (ps aux --sort=-rss), or use app: flclient.apps.payload"
    if free + swap < TORCH_MB:
        return [Finding("error", "memory", f"{what}, with {swap} MB of swap beside it", fix)]
    return [Finding("warning", "memory", f"{what}: it will swap, and you will measure the disk", fix)]


def _speed(health: Health) -> list[Finding]:
    found = []
    unsteady = [name for name in health.governors if name in UNSTEADY]
    if unsteady:
        what = f"the CPU governor is {', '.join(unsteady)}: the speed changes while it is measured"
        fix = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        found.append(Finding("warning", "governor", what, fix))
    said = throttling(health.throttled or 0)
    if said:
        power = "use the board's own power supply and a short cable; sudo reboot clears the record"
        heat = "cool it: vcgencmd measure_temp must stay below 80'C under load; sudo reboot clears the record"
        fix = power if said[0].startswith(THROTTLED[0]) else heat
        found.append(Finding("warning", "throttled", f"the board's firmware slows it down: {', '.join(said)}", fix))
    return found


def throttling(bits: int) -> list[str]:
    """Say in words what the bits of `vcgencmd get_throttled` mean."""
    now = [f"{word} now" for place, word in THROTTLED.items() if bits >> place & 1]
    past = [
        f"{word} since the last boot"
        for place, word in THROTTLED.items()
        if bits >> (place + SINCE_BOOT) & 1 and not bits >> place & 1
    ]
    return sorted([*now, *past], key=lambda said: not said.startswith(THROTTLED[0]))


def _network(health: Health) -> list[Finding]:
    found = []
    if health.power_save:
        what = f"Wi-Fi power save is on ({health.interface}): packets wait up to a second for the radio to wake"
        fix = f"sudo iw dev {health.interface} set power_save off (until the next boot)"
        found.append(Finding("warning", "wifi-power-save", what, fix))
    return found


def inabilities(seen: Examined) -> list[Finding]:
    """Return notes of what the host's kernel surely lacks to play links, for a user who has not asked for any yet."""
    return [note(lack) for lack in lacks(seen) if getattr(seen.health, lack.code) is False]


def lacks(seen: Examined) -> list[Finding]:
    """Return what a host's kernel may lack to play links, each as an error, whether this host lacks it or not."""
    user = seen.facts.user
    said = {
        "tc": ("`tc` is not installed", "sudo apt-get install iproute2"),
        "netem": ("the kernel has no sch_netem", "sudo apt-get install linux-modules-extra-$(uname -r) (Ubuntu)"),
        "sudo": (
            "sudo asks for a password",
            f"sudo visudo -f /etc/sudoers.d/{user}, add: {user} ALL=(ALL) NOPASSWD: ALL",
        ),
    }
    return [Finding("error", code, what, fix) for code, (what, fix) in said.items()]


def note(lack: Finding) -> Finding:
    """Return why the kernel cannot play links as a mere note: a relay can."""
    return Finding("note", lack.code, f"{lack.what}: a relay plays links here, not the kernel", lack.fix)


def _sleep(seen: Examined) -> list[Finding]:
    if not seen.health.sleeps:
        return []
    why = {"lid": "when its lid is closed", "idle": "when nobody uses it"}
    what = f"it goes to sleep {' and '.join(why.get(one, one) for one in seen.health.sleeps)}"
    mask = "sudo systemctl mask --runtime sleep.target suspend.target hibernate.target (until the next boot)"
    fix = (
        "caffeinate -i -s, in a terminal there, for as long as the run takes" if seen.facts.system == "Darwin" else mask
    )
    return [Finding("warning", "sleep", what, fix)]
