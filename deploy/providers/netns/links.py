"""The network of a lab, by iproute2's `ip`: a /24 that is free here, one bridge, a virtual cable to each host.

Knows nothing of processes: namespaces come as open files.
"""

from __future__ import annotations

import ipaddress
import json
import random
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import DeployError
from deploy.providers.netns.plan import CALLER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deploy.providers.netns.plan import HostPlan, LabPlan

BENCHMARKING = ipaddress.IPv4Network("198.18.0.0/15")
"""RFC 2544: for tests of network devices; no machine on the internet has such an address."""
_SYSCTL = Path("/proc/sys/net/ipv6/conf")


def free_network(taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """Return a /24 for hosts that overlaps nothing that is taken; DeployError if there is none."""
    busy = [network for network in taken if network.prefixlen and network.overlaps(BENCHMARKING)]
    free = [each for each in BENCHMARKING.subnets(new_prefix=24) if not any(each.overlaps(net) for net in busy)]
    if not free:
        raise DeployError(f"netns: routes of this machine take all of {BENCHMARKING}, where the hosts' addresses are")
    return random.choice(free)  # noqa: S311 - any will do; at random, because a lab that just went may still go


def routes(listed: str) -> list[ipaddress.IPv4Network]:
    """Return the destinations in the output of `ip -json -4 route`, without the default routes."""
    told = [route["dst"] for route in json.loads(listed) if route["dst"] != "default"]
    return [ipaddress.IPv4Network(destination) for destination in told]


def routes_here(ip: str) -> list[ipaddress.IPv4Network]:
    """Return where this machine has routes to."""
    return routes(_run([ip, "-json", "-4", "route", "show", "table", "all"], "", ()) or "[]")


def free_network6() -> str | None:
    """Return a /64 of the unique local kind (RFC 4193); None if this machine does not speak IPv6."""
    try:
        switched_off = (_SYSCTL / "default" / "disable_ipv6").read_text().strip() != "0"
    except OSError:
        return None
    return None if switched_off else str(ipaddress.IPv6Network(((0xFD << 40 | secrets.randbits(40)) << 80, 64)))


def quiet() -> None:
    """Keep the kernel from giving the interfaces of this namespace addresses of its own; before they are made."""
    if _SYSCTL.exists():
        for scope in ("all", "default"):
            (_SYSCTL / scope / "disable_ipv6").write_text("1")


def at_once() -> None:
    """Let IPv6 addresses of this namespace be used without the second in which others may object."""
    if _SYSCTL.exists():
        for scope in ("all", "default"):
            (_SYSCTL / scope / "disable_ipv6").write_text("0")
            (_SYSCTL / scope / "accept_dad").write_text("0")


def build_bridge(plan: LabPlan, caller: int) -> None:
    """Make the bridge here, and an interface for the caller in its namespace, not yet with addresses."""
    lines = [
        "link add br0 type bridge forward_delay 0 mcast_snooping 0",
        "link set dev br0 up",
        _cable(plan, CALLER, plan.veth, caller),
    ]
    _batch(plan, lines, (caller,))


def plug_in(plan: LabPlan, hosts: Mapping[int, int]) -> None:
    """Give each host (number → open network namespace) an interface `eth0`, and the bridge, which is here, its end."""
    lines = [_cable(plan, number, "eth0", namespace) for number, namespace in hosts.items()]
    _batch(plan, lines, tuple(hosts.values()))


def _cable(plan: LabPlan, number: int, interface: str, namespace: int) -> str:
    """Return the command that connects an interface in an open namespace with the bridge, which is here."""
    far_end = f"name {interface} address {plan.mac(number)} netns /proc/self/fd/{namespace}"
    return f"link add p{number} up master br0 type veth peer {far_end}"


def cut(plan: LabPlan, host: HostPlan) -> None:
    """Cut a host's cable: from now on nothing that it says arrives, not even that its connections end."""
    _batch(plan, [f"link set dev p{host.number} down"], ())


def unplug(plan: LabPlan, host: HostPlan) -> None:
    """Remove a host's interface; it may have gone with the host."""
    subprocess.run([plan.request.programs.ip, "link", "del", f"p{host.number}"], check=False, stderr=subprocess.DEVNULL)


def set_addresses(plan: LabPlan, interface: str, number: int) -> None:
    """Give an interface of this namespace the addresses of that place in the lab, and switch it on.

    There is no route to anywhere else.
    """
    address6 = plan.address6(number)
    lines = [f"addr add {plan.address(number)}/24 broadcast + dev {interface}"]
    if address6 is not None:
        lines.append(f"addr add {address6}/64 dev {interface} nodad")
    _batch(plan, ["link set dev lo up", *lines, f"link set dev {interface} up"], ())


def remove_interface(ip: str, veth: str) -> None:
    """Remove a lab's interface from this namespace; it may have gone with the lab."""
    subprocess.run([ip, "link", "del", veth], check=False, stderr=subprocess.DEVNULL)


def _batch(plan: LabPlan, lines: Sequence[str], files: tuple[int, ...]) -> None:
    _run([plan.request.programs.ip, "-batch", "-"], "\n".join(lines) + "\n", files)


def _run(argv: Sequence[str], text: str, files: tuple[int, ...]) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, pass_fds=files, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise DeployError(f"netns: the network cannot be made: {' '.join(argv)} said: {said}")
    return done.stdout
