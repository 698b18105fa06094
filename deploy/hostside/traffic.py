"""Runs on a host as a part of `health.py`: whether its kernel could shape the traffic of one interface.

Only asked where a playbook has links. What the kernel has is rehearsed in a network namespace of its own, which is gone
with the rehearsal; the kernel may load modules for it. What cannot be known without root stays unknown: null.
"""

from __future__ import annotations

import os
import shutil
import sys

from deploy.hostside.tools import environment, told

NEEDED = ("ip", "tc")
"""Both are of iproute2."""
REHEARSAL = """
try() {
  what=$1
  shift
  said=$("$@" 2>&1) || { printf '%s: %s\\n' "$what" "$(printf '%s' "$said" | head -n 1)"; exit 0; }
}
[ -e /sys/module/ifb ] || modprobe --quiet ifb numifbs=0 2>/dev/null
try sch_netem tc qdisc add dev lo root netem delay 1ms
try sch_prio tc qdisc replace dev lo root handle 1: prio
try ifb ip link add f1ab type ifb
try sch_tbf tc qdisc add dev f1ab root handle 1: tbf rate 1gbit burst 100kb latency 1ms
try sch_ingress tc qdisc add dev lo handle ffff: ingress
try cls_u32 tc filter add dev lo parent 1: protocol ip prio 1 u32 match ip dst 127.0.0.2/32 flowid 1:3
try act_mirred tc filter add dev lo parent ffff: protocol ip prio 1 u32 match ip src 127.0.0.2/32 \\
  action mirred egress redirect dev f1ab
echo ok
"""
"""What `flclient.link.kernel` will use, one thing after the other; says `ok`, or what the kernel refuses, and how.

Loaded by need, the module of IFB devices would make two of them for everybody; `numifbs=0` is none.
"""


def as_root(*argv: str) -> str | None:
    """Return what a command says when root runs it; None if it fails, or if we may not."""
    return told(*([] if os.getuid() == 0 else ["sudo", "-n"]), *argv)


def may_sudo() -> bool:
    """Tell whether commands can be run as root without a password."""
    return as_root("true") is not None


def refused(root: bool, missing: list[str]) -> str | None:  # noqa: FBT001 - what has been asked already
    """Return what the kernel refuses to do, empty if nothing; None if that could not be tried."""
    if not root or missing or not sys.platform.startswith("linux"):
        return None
    said = (as_root("unshare", "--net", "sh", "-c", REHEARSAL) or "").strip()
    return None if not said else "" if said == "ok" else said


def qdiscs(name: str) -> list[str]:
    """Return an interface's queueing disciplines that are not the kernel's own, as `kind handle place`.

    A handle of 0 is the kernel's: it makes such a one itself whenever there is no other. The place is `root`, or
    `parent` for all else.
    """
    found = []
    for line in (told("tc", "qdisc", "show", "dev", name) or "").splitlines():
        if not line.startswith("qdisc "):
            continue
        _, kind, handle, *rest = line.split()
        if handle != "0:":
            found.append(" ".join((kind, handle, *rest[:1])))
    return found


def traffic(way: str) -> dict[str, object]:
    """Ask everything; `way` is the interface to be shaped, empty if that is not known."""
    path = environment()["PATH"]
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    may = may_sudo()
    return {
        "interface": way,
        "missing": missing,
        "root": may,
        "refused": refused(may, missing),
        "qdiscs": qdiscs(way) if way and "tc" not in missing else [],
    }
