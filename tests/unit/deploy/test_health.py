"""What only `deploy check` looks at: parsed from the trees and tools of known machines, and said with a fix."""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import hostside
from deploy.app import embedded
from deploy.errors import HostError
from deploy.facts import Facts, findings, understood
from deploy.health import THROTTLED, Clock, Examined, Health, Traffic, ailments, examine, inabilities, throttling
from deploy.hostside import health as script
from deploy.inventory import Host, Python, Ssh
from deploy.remote.fake import FakeRemote

if TYPE_CHECKING:
    from pathlib import Path

CNN, PAYLOAD = embedded("flclient.apps.cifar10"), embedded("flclient.apps.payload")
CLIENT = Host(name="pi-a", role="client", host="192.0.2.21", ssh=Ssh(), python=Python(), workdir="~/.fieldlab")
SERVER = "192.0.2.10"

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
{wired}\t00000000\t010200C0\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0
wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
wlan0\t000200C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0
"""
ROUTES_6 = """\
20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001    wlan0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003    wlan0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
"""  # noqa: E501 - as the kernel prints it
MEMINFO = "MemTotal:        {total} kB\nMemFree:          912340 kB\nMemAvailable:    {free} kB\nSwapFree:  {swap} kB\n"


@dataclass(frozen=True)
class Machine:
    """A tree of /proc, /sys, /etc, and what tools answer (None: fails); the answers of one look at it."""

    place: Path

    def make(self, files: dict[str, str], tools: dict[str, str | None]) -> Machine:
        for name, content in files.items():
            (self.place / name).parent.mkdir(parents=True, exist_ok=True)
            (self.place / name).write_text(content)
        (self.place / "bin").mkdir()
        for name, said in tools.items():
            (self.place / "bin" / name).write_text(
                "#!/bin/sh\nexit 1\n" if said is None else f"#!/bin/sh\necho '{said}'\n"
            )
            (self.place / "bin" / name).chmod(0o755)
        return self

    def look(self, address: str = SERVER, shaped: str = "", **env: str) -> tuple[Facts, Health]:
        """Look with the whole script, as on a host; tools of this machine that are not made anew stay."""
        parts = (f"deploy.hostside.{part}" for part in ("look", "tools", "traffic"))
        text = hostside.program("health", "flcommon.identity", *parts)
        words = ("fast", text, sys.executable, "~/.fieldlab", str(self.place), address, shaped)
        argv = ["sh", "-c", hostside.source("look.sh"), "look", *words]
        path = f"{self.place}/bin:{os.defpath}"
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            env={"HOME": str(self.place), "PATH": path, **env},
        )
        assert done.stderr == ""
        told = json.loads(done.stdout)
        return msgspec.convert(told, Facts), msgspec.convert(told["health"], Health)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def raspberry(machine: Machine) -> Machine:
    """Give a Raspberry Pi 4 on Wi-Fi with a weak power supply."""
    return machine.make(
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/meminfo": MEMINFO.format(total=3884376, free=3204560, swap=102396),
            "proc/net/route": ROUTES.format(wired="wlan0", metric=600),
            "sys/class/net/wlan0/phy80211/name": "phy0",
            **{f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_governor": "ondemand\n" for n in range(4)},
            "sys/devices/system/cpu/cpufreq/x": "",
            f"lib/modules/{os.uname().release}/modules.dep": "kernel/net/sched/sch_netem.ko.xz:\n",
        },
        {"vcgencmd": "throttled=0x50005", "iw": "Power save: on", "tc": "", "sudo": ""},
    )


@pytest.fixture
def laptop(machine: Machine) -> Machine:
    """Give a laptop with both networks, on the wired one, and a mouse with a battery."""
    return machine.make(
        {
            "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i5-8250U\n",
            "proc/meminfo": MEMINFO.format(total=8000000, free=700000, swap=4000000),
            "proc/net/route": ROUTES.format(wired="enp3s0", metric=100),
            "proc/net/ipv6_route": ROUTES_6,
            "proc/acpi/button/lid/LID0/state": "state:      open\n",
            "sys/class/net/wlan0/wireless/x": "",
            "sys/class/power_supply/BAT0/type": "Battery\n",
            "sys/class/power_supply/AC/type": "Mains\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
            "run/systemd/system/x": "",
        },
        {"iw": "Power save: off", "sudo": None},
    )


def test_a_raspberry_pi_on_wifi(raspberry: Machine) -> None:
    """All that a Pi 4 tells, and what is wrong with it: power, governor, Wi-Fi power save."""
    facts, health = raspberry.look()
    assert (facts.cpu, facts.memory_mb) == ("Raspberry Pi 4 Model B Rev 1.4", 3793)
    assert (health.memory_free_mb, health.swap_free_mb) == (3129, 99)
    assert health.governors == ("ondemand",)
    assert health.throttled == 0x50005
    assert (health.interface, health.wireless, health.power_save) == ("wlan0", True, True)
    assert (health.tc, health.netem, health.sudo) == (True, True, True)
    assert health.sleeps == ()
    found = {one.code: one for one in ailments(Examined(facts, health, None), CNN)}
    assert {"governor", "throttled", "wifi-power-save"} == set(found) - {"clock-unsynchronised"}
    assert found["throttled"].what.endswith("under-voltage now, throttled now")
    assert "power supply" in found["throttled"].fix
    assert "iw dev wlan0 set power_save off" in found["wifi-power-save"].fix


@pytest.mark.parametrize(("shaped", "interface"), [("?", "wlan0"), ("eth9", "eth9")])
def test_what_a_kernel_could_shape(raspberry: Machine, shaped: str, interface: str) -> None:
    """Asked only where a link is wished: the interface of the route, or the inventory's, and what stands at its top."""
    tc = raspberry.place / "bin" / "tc"
    tc.write_text(
        '#!/bin/sh\n[ "$*" = "qdisc show dev ' + interface + '" ] && echo "qdisc fq_codel 8001: root refcnt 2"\n'
    )
    for name, said in (("unshare", "ok"), ("sudo", "ok"), ("ip", "")):
        (raspberry.place / "bin" / name).write_text(f"#!/bin/sh\necho {said}\n")
        (raspberry.place / "bin" / name).chmod(0o755)
    facts, health = raspberry.look(shaped=shaped)
    assert health.traffic == Traffic(interface=interface, root=True, refused="", qdiscs=("fq_codel 8001: root",))
    assert facts.interfaces == ("wlan0",)
    assert raspberry.look()[1].traffic is None


def test_a_newer_kernel_tells_of_throttling_itself(raspberry: Machine) -> None:
    """The file of the firmware's driver counts before the tool, which only members of a group may use."""
    file = raspberry.place / "sys/devices/platform/soc/soc:firmware/get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text("80000\n")
    facts, health = raspberry.look()
    (found,) = (one for one in ailments(Examined(facts, health, None), CNN) if one.code == "throttled")
    assert "soft temperature limit since the last boot" in found.what
    assert "measure_temp" in found.fix


def test_a_tool_that_answers_nonsense_is_one_without_an_answer(raspberry: Machine) -> None:
    """Also one that hangs, or is not executable: the look says unknown, and goes on."""
    for name, text in {
        "vcgencmd": "#!/bin/sh\necho VCHI initialization failed\n",
        "iw": "no program at all \0",
    }.items():
        (raspberry.place / "bin" / name).write_text(text)
    (raspberry.place / "proc/meminfo").write_text("MemAvailable: lots of kB\n")
    (raspberry.place / "proc/net/route").write_text("Iface\nwlan0 zzz\n")
    _, health = raspberry.look()
    assert (health.throttled, health.power_save, health.memory_free_mb, health.interface) == (None, None, None, "")


def test_a_laptop_uses_the_better_route_and_sleeps_with_its_lid(laptop: Machine) -> None:
    """The wired default route has the smaller metric; to a network of its own Wi-Fi is nearer."""
    facts, health = laptop.look("198.51.100.7")
    assert facts.cpu == "Intel(R) Core(TM) i5-8250U"
    assert (health.interface, health.wireless, health.power_save) == ("enp3s0", False, None)
    assert laptop.look("192.0.2.10")[1].interface == "wlan0"
    assert health.sleeps == ("lid",)
    if os.geteuid():
        assert health.sudo is False
    found = {one.code: one for one in ailments(Examined(facts, health, None), CNN)}
    assert "when its lid is closed" in found["sleep"].what
    assert "systemctl mask --runtime sleep.target" in found["sleep"].fix
    assert found["memory"].level == "warning"
    assert "powersave" in found["governor"].what


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("2001:db8::7", "eth0"),
        ("fe80::1%lo", "lo"),
        ("2001:db9::1", "wlan0"),
        ("127.0.0.5", "lo"),
        ("198.51.100.1", "enp3s0"),
    ],
)
def test_the_interface_on_the_way_to_an_address(laptop: Machine, address: str, name: str) -> None:
    """The longest prefix, IPv6 too, and no route that rejects."""
    assert script.interface(str(laptop.place), address) == name


def test_the_way_back_to_who_logged_in(laptop: Machine) -> None:
    """The server has no server to go to: its interface is the one towards the SSH client; without one, unknown."""
    assert laptop.look("", SSH_CONNECTION="192.0.2.77 50000 192.0.2.10 22")[1].interface == "wlan0"
    assert laptop.look("")[1].interface == ""


@pytest.mark.parametrize(
    ("file", "text", "sleeps"),
    [
        ("etc/systemd/logind.conf", "[Login]\n#HandleLidSwitch=ignore\n", ["lid"]),
        ("etc/systemd/logind.conf", "[Login]\nHandleLidSwitch=ignore\n", []),
        ("etc/systemd/logind.conf.d/50-x.conf", "[Login]\nHandleLidSwitch = lock\nIdleAction=suspend\n", ["idle"]),
        ("usr/lib/systemd/logind.conf.d/9-x.conf", "[Login]\nHandleLidSwitch=ignore\n", []),
    ],
)
def test_what_logind_says_of_the_lid(laptop: Machine, file: str, text: str, sleeps: list[str]) -> None:
    """From its file and drop-ins; a comment says nothing."""
    (laptop.place / file).parent.mkdir(parents=True, exist_ok=True)
    (laptop.place / file).write_text(text)
    assert script.sleeps(str(laptop.place)) == sleeps


def test_a_later_drop_in_wins(laptop: Machine) -> None:
    """By its name, whatever its directory; one of the same name in /etc stands for that in /usr/lib."""
    for file, text in {
        "etc/systemd/logind.conf.d/10-a.conf": "HandleLidSwitch=ignore\n",
        "usr/lib/systemd/logind.conf.d/20-b.conf": "HandleLidSwitch=suspend\n",
    }.items():
        (laptop.place / file).parent.mkdir(parents=True)
        (laptop.place / file).write_text(text)
    assert script.sleeps(str(laptop.place)) == ["lid"]
    (laptop.place / "etc/systemd/logind.conf.d/20-b.conf").write_text("HandleLidSwitch=ignore\n")
    assert script.sleeps(str(laptop.place)) == []


def test_a_machine_that_may_not_sleep_does_not(laptop: Machine) -> None:
    """The fix that is advised takes the finding away."""
    (laptop.place / "run/systemd/system/sleep.target").symlink_to("/dev/null")
    assert script.sleeps(str(laptop.place)) == []


def test_a_mouse_with_a_battery_makes_no_laptop(machine: Machine) -> None:
    """A PC that has no battery but its mouse's, no governor and no Wi-Fi: nothing to say."""
    made = machine.make(
        {
            "proc/meminfo": MEMINFO.format(total=16000000, free=12000000, swap=0),
            "proc/net/route": ROUTES.format(wired="eno1", metric=100).replace("wlan0", "eno1"),
            "sys/class/power_supply/hidpp_battery_0/type": "Battery\n",
            "sys/class/power_supply/hidpp_battery_0/scope": "Device\n",
            "proc/acpi/button/lid/LID0/state": "state:      open\n",
            "run/systemd/system/x": "",
            "sys/module/sch_netem/refcnt": "0",
        },
        {"tc": "", "sudo": ""},
    )
    facts, health = made.look()
    found = [one for one in ailments(Examined(facts, health, None), CNN) if one.code != "clock-unsynchronised"]
    assert found == []
    assert (health.interface, health.netem, health.throttled, health.power_save) == ("eno1", True, None, None)


PMSET = """\
System-wide power settings:
 SleepDisabled\t\t0
Currently in use:
 standby              1
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 disksleep            10
 sleep                {sleep}
 displaysleep         10
"""


@pytest.mark.parametrize(
    ("setting", "sleeps"), [("1", ["idle"]), ("0", []), ("1 (sleep prevented by caffeinate, bluetoothd)", [])]
)
def test_a_mac_sleeps_by_its_own_settings(monkeypatch: pytest.MonkeyPatch, setting: str, sleeps: list[str]) -> None:
    """As `pmset -g` writes them; while `caffeinate` runs it does not sleep."""
    monkeypatch.setattr(script.sys, "platform", "darwin")
    monkeypatch.setattr(script, "told", lambda *_: PMSET.format(sleep=setting))
    assert script.sleeps("") == sleeps
    assert script.is_synchronised() is None


def test_a_mac_is_told_the_commands_of_a_mac(facts) -> None:
    """What Linux calls timedatectl and systemctl has other names there, and nobody is asked for netem."""
    health = Health(sleeps=("idle",), synchronised=False, sudo=True)
    found = {one.code: one.fix for one in ailments(Examined(facts(system="Darwin"), health, None), CNN)}
    assert found["sleep"].startswith("caffeinate")
    assert "systemsetup" in found["clock-unsynchronised"]
    assert set(found) == {"sleep", "clock-unsynchronised"}


class Timex(ctypes.Structure):
    """The beginning of struct timex, adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
    )


@pytest.mark.parametrize(("status", "answer"), [(0x2001, True), (0x0040, False), (0x2041, False)])
def test_whether_the_clock_is_kept_right(monkeypatch: pytest.MonkeyPatch, status: int, answer: bool) -> None:  # noqa: FBT001
    """The kernel's own flag, read without changing anything: `modes` is zero."""

    class Library:
        def __init__(self, name: object) -> None:
            assert name is None

        def adjtimex(self, buffer: ctypes.Array[ctypes.c_char]) -> int:
            timex = Timex.from_buffer(buffer)
            assert timex.modes == 0
            timex.maxerror, timex.esterror, timex.status = 16_000_000, 16_000_000, status
            return 5

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert script.is_synchronised() is answer


@given(st.integers(0, 15), st.integers(0, 15))
def test_every_bit_of_the_firmware_is_told_once(now: int, past: int) -> None:
    """What is so now is not told again as past; power comes first, as its fix does."""
    said = throttling(now | past << 16)
    assert sorted(said) == sorted(
        f"{word} now" if now >> place & 1 else f"{word} since the last boot"
        for place, word in THROTTLED.items()
        if (now | past) >> place & 1
    )
    if (now | past) & 1:
        assert said[0].startswith("under-voltage")


networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: ipaddress.ip_network((pair[0] & (2**32 - 1) << 32 - pair[1] & (2**32 - 1), pair[1]))
)


@given(st.dictionaries(networks, st.integers(0, 9), max_size=6), st.ip_addresses(v=4))
def test_routes_are_chosen_as_the_kernel_does(tmp_path_factory, routes, address) -> None:
    """Against Python's own idea of networks: the longest prefix that holds the address."""
    root = tmp_path_factory.mktemp("routes")
    (root / "proc" / "net").mkdir(parents=True)
    lines = [
        f"if{metric}-{net.prefixlen}\t{script.swapped(f'{int(net.network_address):08X}'):08X}\t0\t0001\t0\t0\t{metric}"
        f"\t{script.swapped(f'{int(net.netmask):08X}'):08X}\t0\t0\t0\n"
        for net, metric in routes.items()
    ]
    (root / "proc/net/route").write_text("Iface\n" + "".join(lines))
    holding = [net for net in routes if address in net]
    if address in ipaddress.ip_network("127.0.0.0/8"):
        return
    best = max(holding, key=lambda net: net.prefixlen, default=None)
    assert script.interface(str(root), str(address)) == (best and f"if{routes[best]}-{best.prefixlen}")


@pytest.mark.parametrize(
    ("free", "swap", "app", "level"),
    [
        (900, 0, CNN, None),
        (700, 200, CNN, "warning"),
        (400, 100, CNN, "error"),
        (400, 100, PAYLOAD, None),
        (None, None, CNN, None),
    ],
)
def test_memory_for_torch(facts, free, swap, app, level) -> None:
    """It is an error where not even swap can hold it; an app without torch needs little."""
    health = Health(memory_free_mb=free, swap_free_mb=swap)
    assert [one.level for one in ailments(Examined(facts(), health, None), app)] == [level] * (level is not None)


def test_every_finding_has_a_fix(facts) -> None:
    """Everything wrong at once: each has a code of its own, says what is wrong in a line, and how to put it right."""
    bad = facts(
        machine="armv7l",
        python_bits=32,
        python_version="3.9.2",
        packages={},
        writable=False,
        disk_free_mb=1,
        trouble="x",
    )
    health = Health(
        memory_free_mb=100,
        governors=("ondemand",),
        throttled=0xF000F,
        wireless=True,
        interface="wlan0",
        power_save=True,
        synchronised=False,
        tc=False,
        netem=False,
        sudo=False,
        sleeps=("lid", "idle"),
    )
    seen = Examined(bad, health, None)
    found = [*findings(bad, CNN), *ailments(seen, CNN), *inabilities(seen)]
    assert len({one.code for one in found}) == len(found) == 13
    for one in found:
        assert one.what
        assert one.fix
        assert "\n" not in one.what + one.fix


# --- the exchange ----------------------------------------------------------------------------------------------------


@dataclass
class Slow(FakeRemote):
    """A host whose clock is ahead, and which takes its time between the stamps."""

    ahead_ns: int = 0
    facts: str = ""

    def read(self, argv, *, step, stdin=b"") -> str:  # noqa: ARG002 - the verb's signature
        first = time.time_ns() + self.ahead_ns
        deadline = time.monotonic() + 0.05
        while time.monotonic() < deadline:
            pass
        health = json.dumps({"first_ns": first, "last_ns": time.time_ns() + self.ahead_ns, "power_save": None})
        return self.facts[:-1] + f',"health":{health}}}\n'


@pytest.mark.parametrize("ahead_s", [0.0, 3.5, -7200.0])
def test_the_clock_is_within_its_uncertainty(facts, ahead_s) -> None:
    """The true offset is inside the bounds, and the 50 ms that the host was busy are no part of them."""
    remote = Slow("pi-a", ahead_ns=int(ahead_s * 1e9), facts=msgspec.json.encode(facts()).decode())
    started = time.monotonic()
    clock = examine(CLIENT, remote, SERVER).clock
    elapsed_s = time.monotonic() - started
    assert abs(clock.offset_s - ahead_s) <= clock.error_s
    assert 2 * clock.error_s <= elapsed_s - 0.05 + 1e-3


def test_a_clock_that_is_set_meanwhile_is_unknown(facts) -> None:
    """More time has passed between the host's stamps than between ours: no offset explains that."""
    health = f'{{"first_ns":{time.time_ns()},"last_ns":{time.time_ns() + 10**12}}}'
    told = msgspec.json.encode(facts()).decode()[:-1] + f',"health":{health}}}'
    assert examine(CLIENT, FakeRemote("pi-a", {(): told}), SERVER).clock is None


def test_a_host_without_python_has_no_clock(facts) -> None:
    """The shell's answer has no health: all of it is unknown, and nothing is wrong with it."""
    told = msgspec.json.encode(facts(python="", python_version="", trouble="there is no Python at x")).decode()
    seen = examine(CLIENT, FakeRemote("pi-a", {(): told}), SERVER)
    assert seen == Examined(facts(python="", python_version="", trouble="there is no Python at x"), Health(), None)
    assert ailments(seen, CNN) == []


@given(st.text())
def test_any_answer_is_facts_or_an_error_that_names_the_host(answer) -> None:
    """A host may say anything."""
    with pytest.raises(HostError, match=r"^pi-a: look: an answer that cannot be understood"):
        understood(FakeRemote("pi-a"), answer, Facts)


def test_clocks_are_told_in_seconds() -> None:
    """Nanoseconds are for machines."""
    assert msgspec.json.encode(Clock(1.5, 0.25)) == b'{"offset_s":1.5,"error_s":0.25}'
