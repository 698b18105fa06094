"""How a machine is doing, read from copies of what machines of several kinds say."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flcommon.events import HostSampled, Interface
from flcommon.interfaces import MOST, Heard, bit_rate_mbit, counters, interfaces, wireless
from flcommon.machine import Machine, Ticks, available_mb, bits, load, ticks

if TYPE_CHECKING:
    from pathlib import Path

DEV_HEADER = """Inter-|   Receive                     |  Transmit
 face |bytes    packets errs drop fifo|bytes    packets errs drop fifo
"""
WIRELESS_HEADER = """Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
 face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22
"""
PI = {
    "proc/stat": "cpu  4705 150 1120 16250 520 0 90 0 0 0\ncpu0 1 0 0 1 0 0 0 0 0 0\ncpu1 1 0 0 1 0 0 0 0 0 0\n"
    "cpu2 1 0 0 1 0 0 0 0 0 0\ncpu3 1 0 0 1 0 0 0 0 0 0\nintr 114930548 113199788 3\nctxt 1990473\n",
    "proc/loadavg": "1.25 0.40 0.11 2/163 1234\n",
    "proc/meminfo": "MemTotal:        3884380 kB\nMemFree:          211000 kB\nMemAvailable:    3145728 kB\n",
    "proc/net/dev": DEV_HEADER
    + "    lo: 1000 10 0 0 0 0 0 0 1000 10 0 0 0 0 0 0\n"
    + "  eth0: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    + " wlan0: 53482913 49512 1 7 0 0 0 0 8713425 30118 2 3 0 0 0 0\n",
    "proc/net/wireless": WIRELESS_HEADER
    + " wlan0: 0000   54.  -56.  -256        0      0      0     12      3        0\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpufreq/policy0/affected_cpus": "0 1 2 3\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48686\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}
LAPTOP = {
    "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\ncpu1 50 0 50 400 0 0 0 0 0 0\n",
    "proc/loadavg": "12.00 0.40 0.11 2/1630 91234\n",
    "proc/meminfo": "MemAvailable:    8388608 kB\n",
    "proc/net/dev": DEV_HEADER
    + "enp0s31f6: 5000 50 0 0 0 0 0 0 6000 60 0 0 0 0 0 0\nwlp2s0:123 4 0 0 0 0 0 0 567 8 0 0 0 0 0 0\n",
    "proc/net/wireless": WIRELESS_HEADER
    + "wlp2s0: 0000   70.   60.   161.       0      0      0      0      0        0\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "3000000\n",
    "sys/devices/system/cpu/cpufreq/policy0/affected_cpus": "0\n",
    "sys/devices/system/cpu/cpufreq/policy1/scaling_cur_freq": "1000000\n",
    "sys/devices/system/cpu/cpufreq/policy1/affected_cpus": "1 2 3\n",
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "27800\n",
    "sys/class/thermal/thermal_zone1/type": "iwlwifi_1\n",
    "sys/class/thermal/thermal_zone1/temp": "33000\n",
    "sys/class/thermal/thermal_zone2/type": "x86_pkg_temp\n",
    "sys/class/thermal/thermal_zone2/temp": "71000\n",
}
PC = {
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "16800\n",
    "sys/class/hwmon/hwmon0/name": "nvme\n",
    "sys/class/hwmon/hwmon0/temp1_input": "41000\n",
    "sys/class/hwmon/hwmon3/name": "k10temp\n",
    "sys/class/hwmon/hwmon3/temp1_input": "55125\n",
}
VM = {
    "proc/stat": "cpu  100 0 0 800 0 0 0 100 0 0\ncpu0 100 0 0 800 0 0 0 100 0 0\n",
    "proc/loadavg": "0.00 0.00 0.00 1/80 700\n",
    "proc/meminfo": "MemAvailable:    1024 kB\n",
    "proc/net/dev": DEV_HEADER + "  ens3: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n",
}


def built(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def sampled(root: Path, files: dict[str, str], later: str | None = None) -> HostSampled:
    """Return the sample of a machine, of which /proc/stat changes after it was found; the wait is for a share."""
    machine = Machine(built(root, files))
    if later is not None:
        (root / "proc/stat").write_text(later)
    time.sleep(0.06)
    return machine.sample()


def test_a_raspberry_pi_on_wifi(tmp_path: Path) -> None:
    """All that it says. Of 400 ticks 100 went to work, and 20 to waiting for the card, which is idling."""
    later = PI["proc/stat"].replace("cpu  4705 150 1120 16250 520", "cpu  4785 150 1140 16530 540")
    sample = sampled(tmp_path, PI, later)
    assert (sample.cpu_pct, sample.steal_pct, sample.load_1min, sample.memory_free_mb) == (25.0, 0.0, 1.25, 3072)
    assert (sample.frequency_mhz, sample.temperature_c, sample.throttled) == (1500.0, 48.686, 0x50005)
    assert sample.interfaces == {
        "wlan0": Interface(
            received_bytes=53482913,
            sent_bytes=8713425,
            received_packets=49512,
            sent_packets=30118,
            errors=3,
            dropped=10,
            quality=54,
            signal_dbm=-56,
            retries=12,
        )
    }


def test_a_laptop(tmp_path: Path) -> None:
    """Its clock is the mean over processors, its temperature the processor's, and its radio has units of its own."""
    sample = sampled(tmp_path, LAPTOP)
    assert (sample.frequency_mhz, sample.temperature_c, sample.throttled) == (1500.0, 71.0, None)
    assert (sample.cpu_pct, sample.load_1min, sample.memory_free_mb) == (None, 12.0, 8192)
    assert list(sample.interfaces) == ["enp0s31f6", "wlp2s0"]
    radio = sample.interfaces["wlp2s0"]
    assert (radio.received_bytes, radio.quality, radio.signal_dbm, radio.noise_dbm) == (123, 70, None, None)
    assert sample.interfaces["enp0s31f6"].quality is None


def test_a_pc_whose_processor_is_no_thermal_zone(tmp_path: Path) -> None:
    """AMD's says its temperature elsewhere; that of the board or a disk is not taken for it."""
    assert sampled(tmp_path, PC).temperature_c == 55.125


def test_a_virtual_machine(tmp_path: Path) -> None:
    """It knows what was taken from it, which is nobody's use of it, and neither clock nor temperature."""
    later = "cpu  125 0 0 850 0 0 0 125 0 0\ncpu0 125 0 0 850 0 0 0 125 0 0\n"
    sample = sampled(tmp_path, VM, later)
    assert (sample.cpu_pct, sample.steal_pct) == (25.0, 25.0)
    assert (sample.frequency_mhz, sample.temperature_c, sample.throttled) == (None, None, None)


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    """Everything is None, but for what this process knows of itself."""
    sample = sampled(tmp_path, {})
    assert sample == HostSampled(own_cpu_pct=sample.own_cpu_pct)


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    """Not only what is missing: directories in the place of files, a sensor that is broken."""
    for name in PI:
        (tmp_path / name).mkdir(parents=True)
    sample = sampled(tmp_path, {})
    assert sample == HostSampled(own_cpu_pct=sample.own_cpu_pct)
    broken = tmp_path / "broken"
    assert sampled(broken, PI | {"sys/class/thermal/thermal_zone0/temp": "-273200\n"}).temperature_c is None


def test_no_share_of_next_to_no_time(tmp_path: Path) -> None:
    """Processors' time is counted in ticks: a share of a millisecond would be 0 or 100."""
    machine = Machine(built(tmp_path, VM))
    (tmp_path / "proc/stat").write_text("cpu  101 0 0 800 0 0 0 100 0 0\n")
    assert machine.sample().cpu_pct is None


def test_this_process_is_counted_by_its_own_work() -> None:
    """A loop for 0.1 s is half a processor's share of 0.2 s, on this machine as it is."""
    machine, began_s = Machine(), time.monotonic()
    time.sleep(0.1)
    worked_s = time.process_time()
    while time.process_time() - worked_s < 0.1:
        pass
    sample = machine.sample()
    share = 0.1 / (time.monotonic() - began_s) / os.cpu_count()
    assert sample.own_cpu_pct == pytest.approx(100 * share, rel=0.25)
    assert sample.cpu_pct >= 0.5 * sample.own_cpu_pct


def test_a_host_of_containers(tmp_path: Path) -> None:
    """Those that carry the most, in a steady order; a hundred others fill no log."""
    lines = "".join(f"veth{n}: {n} 1 0 0 0 0 0 0 {n} 1 0 0 0 0 0 0\n" for n in range(100))
    found = interfaces(built(tmp_path, {"dev": DEV_HEADER + lines}))
    assert list(found) == sorted(f"veth{n}" for n in range(100 - MOST, 100))


def test_the_rate_of_a_radio(tmp_path: Path) -> None:
    """It is asked of those that are wireless, and of no other; one that is not there has none."""
    asked = []
    net = built(tmp_path, LAPTOP) / "proc/net"
    found = interfaces(net, lambda name: asked.append(name) or 433.3)
    assert asked == ["wlp2s0"]
    assert found["wlp2s0"].bit_rate_mbit == 433.3
    assert found["enp0s31f6"].bit_rate_mbit is None
    assert bit_rate_mbit("no-such-radio") is None


def test_the_oldest_kernels_and_the_newest() -> None:
    """Fewer kinds of ticks, and more."""
    assert ticks(b"cpu 5 0 5 10\ncpu0 5 0 5 10\n") == Ticks(10, 0, 20, 1)
    assert ticks(b"cpu 5 0 5 10 0 0 0 0 3 4 99\n") == Ticks(10, 0, 20, 0)


WORDS = b"cpu cpu0 wlan0: : - -56. -256 0x 5 MemAvailable: kB \xff nan 1.0 1e9 4611686018427387904 99999999999999999999"
GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([*WORDS.split(), b"\n", b" ", "٣".encode()]), max_size=60).map(b" ".join),
)


@given(GARBAGE)
def test_garbage_is_nothing(garbage: bytes) -> None:
    """And what comes of it can be written down."""
    found = (ticks(garbage), load(garbage), available_mb(garbage), bits(garbage), counters(garbage), wireless(garbage))
    assert msgspec.json.decode(msgspec.json.encode(found))


@given(
    st.lists(st.integers(0, 2**62), min_size=16, max_size=16).filter(any),
    st.from_regex(r"[a-z][a-z0-9]{1,14}", fullmatch=True),
)
def test_counters_are_read_as_they_were_written(numbers: list[int], name: str) -> None:
    """Whatever their width, with or without a space behind the name."""
    assume(name != "lo")
    line = f"{name:>6}:{numbers[0]:>8} " + " ".join(map(str, numbers[1:]))
    assert counters(f"{DEV_HEADER}{line}\n".encode()) == {name: numbers}


@given(st.integers(0, 100), st.integers(-110, 110), st.integers(-256, 0), st.integers(0, 10**6))
def test_levels_are_in_dbm_or_unknown(quality: int, signal: int, noise: int, retries: int) -> None:
    """Below zero they are; -256 is how the kernel says that a driver does not know."""
    line = f" wlan0: 0000   {quality}.  {signal}.  {noise}        0      0      0     {retries}      3        0\n"
    known = noise if -256 < noise < 0 else None
    expected = Heard(quality, signal if signal < 0 else None, known, retries)
    assert wireless((WIRELESS_HEADER + line).encode()) == {"wlan0": expected}
