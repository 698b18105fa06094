"""Hosts with a kernel and a clock of their own: User Mode Linux guests, each inside a host of a lab of namespaces.

A guest has real `tc netem`, IFB and IPv6, which this machine's kernel may lack, and a clock that can be set. It sees
the file system of the namespace host in which it runs, its SSH server has the same host key, and the lab's key opens
it: an `Inventory` with guests in place of some hosts is a lab like any other. A guest ends with its namespace host.
"""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploy.providers.netns.lab import addresses6, netns_lab
from deploy.remote.ssh import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.inventory import Host, Inventory, NetnsLab
    from deploy.remote.protocol import Remote

PACKAGES = {"linux.uml": "user-mode-linux", "busybox": "busybox-static"}
MODULES = Path("/usr/lib/uml/modules")
GUEST = 100
"""A guest's addresses are its namespace host's, with so much added to the last part."""
MEMORY_MB = 768
_SCHEDULERS = ("netem", "prio", "tbf", "sfq", "fq_codel", "fq", "htb", "ingress")
_MODULES = (
    "lib/crc-ccitt",
    "net/ipv6/ipv6",
    "net/sched/cls_u32",
    "net/sched/cls_flower",
    "net/sched/act_mirred",
    *(f"net/sched/sch_{kind}" for kind in _SCHEDULERS),
)
_START = """\
set -eu
guest=$1 guest6=$2 mac=$3 memory=$4 modules=$5
eth=$(cat /sys/class/net/eth0/address)
old=$(ip -brief -4 addr show dev eth0 | awk '{print $3}')
old6=$(ip -brief -6 addr show dev eth0 scope global | awk '{print $3}')
{
    echo "link add br0 address $eth type bridge forward_delay 0 mcast_snooping 0"
    echo "tuntap add dev guest mode tap"
    echo "link set dev guest master br0 up txqueuelen 10000"
    echo "link set dev eth0 master br0"
    echo "link set dev br0 up"
    echo "addr flush dev eth0"
    echo "addr add $old broadcast + dev br0"
    if [ -n "$old6" ]; then echo "addr add $old6 dev br0 nodad"; fi
} | ip -batch -
cat >/init
chmod 755 /init
TMPDIR=/tmp setsid linux.uml root=/dev/root rootfstype=hostfs rw quiet init=/init mem="$memory"M \\
    con=null con0=null,fd:1 ssl=null "vec0:transport=tap,ifname=guest,depth=128,gro=1,mac=$mac" \\
    "guest=$guest" "guest6=$guest6" "modules=$modules" </dev/null >/run/guest.log 2>&1 &
pid=$! last=${guest6:+::}
until grep -q "Server listening on ${last:-0.0.0.0} port" /run/guest.log; do
    if ! kill -0 $pid 2>/dev/null; then cat /run/guest.log; exit 1; fi
    sleep 0.02
done
"""
_SET_CLOCK = """\
import sys, time
time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + round(float(sys.argv[1]) * 1e9))
"""
_INIT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm /run/sshd
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
hostname "$(cat /etc/hostname)"
for module in MODULES; do busybox insmod "$modules/kernel/$module.ko"; done
busybox insmod "$modules/kernel/drivers/net/ifb.ko" numifbs=0
for scope in all default; do echo 0 >/proc/sys/net/ipv6/conf/$scope/accept_dad; done
ip link set dev lo up
ip addr add "$guest/24" broadcast + dev vec0
ip link set dev vec0 up
if [ -n "$guest6" ]; then ip addr add "$guest6/64" dev vec0 nodad; fi
/usr/sbin/sshd -D -e -oListenAddress=0.0.0.0 ${guest6:+-oListenAddress=::}
"""


def missing() -> str | None:
    """Say why this machine can have no guests; None if it can."""
    absent = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if not absent and not any(MODULES.glob("*/kernel/net/sched/sch_netem.ko")):
        absent = ["user-mode-linux"]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return None if Path("/dev/net/tun").exists() else "this machine has no /dev/net/tun"


@contextlib.contextmanager
def uml_lab(lab: NetnsLab, *names: str) -> Iterator[Inventory]:
    """Give a lab whose hosts of these names are guests, the others in namespaces, for the length of a with-block."""
    with netns_lab(lab) as inventory:
        yield with_guests(inventory, *names)


def with_guests(inventory: Inventory, *names: str) -> Inventory:
    """Start a guest in each of these hosts, and return the lab with them in the hosts' place."""
    sixes = addresses6(inventory)
    chosen = [host for host in inventory.hosts if host.name in names]
    with ThreadPoolExecutor(len(chosen)) as pool:
        booted = pool.map(lambda host: _boot(host, sixes.get(host.name)), chosen)
        guests = {guest.name: guest for guest in booted}
    server = guests.get(inventory.server.name, inventory.server)
    return msgspec.structs.replace(
        inventory,
        server=server,
        server_address=f"{server.host}:{inventory.server_address.rpartition(':')[2]}",
        clients=tuple(guests.get(host.name, host) for host in inventory.clients),
    )


def guest_address(address: str) -> str:
    """Return the address of the guest in the namespace host of this address, IPv4 or IPv6."""
    return str(ipaddress.ip_address(address) + GUEST)


def set_clock(remote: Remote, offset_s: float, drift_ppm: float = 0.0) -> None:
    """Put a guest's clock ahead of what it says now, and let it run faster."""
    remote.run([sys.executable, "-c", _SET_CLOCK, f"{offset_s}"], step="set the clock")
    remote.run(["busybox", "adjtimex", "-q", "-f", f"{round(drift_ppm * 65536)}"], step="let the clock drift")


def _boot(host: Host, address6: str | None) -> Host:
    """Start a guest, and return how to log in."""
    address = guest_address(host.host)
    (modules,) = MODULES.iterdir()
    mac = f"02:f1:{int(ipaddress.ip_address(address)).to_bytes(4, 'big').hex(':')}"
    words = (address, guest_address(address6) if address6 else "", mac, f"{MEMORY_MB}", f"{modules}")
    init = _INIT.replace("MODULES", " ".join(_MODULES)).encode()
    with connect(host) as remote:
        remote.run(["sh", "-c", _START, "sh", *words], step="boot", stdin=init)
        key = remote.read(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"], step="boot")
    with Path(host.ssh.known_hosts or "").open("a") as known_hosts:
        known_hosts.write(f"{address} {' '.join(key.split()[:2])}\n")
    return msgspec.structs.replace(host, host=address)
