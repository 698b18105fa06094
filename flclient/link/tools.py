"""iproute2's `tc` and `ip`: runs them, and makes one sentence of what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from flclient.link.errors import LinkError
from flclient.link.tc import Qdisc, line

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEARCHED = f"{os.defpath}:/usr/sbin:/sbin:/usr/local/sbin"
_TIMEOUT_S = 20.0
_NOT_THERE = (
    "kind is unknown",
    "Unknown device type",
    "Failed to load TC",
    "No such file or directory",
    "classifier not found",
    "not supported",
)
_MODULES = {"netem": "sch_netem", "tbf": "sch_tbf", "prio": "sch_prio", "ingress": "sch_ingress", "ifb": "ifb"}
_ACTIONS = {"u32": "cls_u32", "mirred": "act_mirred"}
_qdiscs = msgspec.json.Decoder(list[Qdisc])


class Route(msgspec.Struct, frozen=True):
    """Where `ip -json route get` says that an address is reached."""

    dev: str


@dataclass(frozen=True)
class Tools:
    """Where this host has the two programs."""

    tc: str
    ip: str

    def batch(self, lines: Sequence[str]) -> list[list[Qdisc]]:
        """Run lines of tc at once, until one fails; return what those with `qdisc show` said, counters too."""
        said = _run([self.tc, "-statistics", "-json", "-batch", "-"], lines)
        return [rows for rows in _qdiscs.decode_lines(said) if isinstance(rows, list)]

    def qdiscs(self, device: str) -> list[Qdisc]:
        """Return a device's queueing disciplines."""
        (rows,) = self.batch([line("qdisc", "show", "dev", device)])
        return rows

    def plain(self, device: str) -> str:
        """Return the same in tc's words for people, which say more of some kinds."""
        return _run([self.tc, "qdisc", "show", "dev", device], ())

    def filters(self, device: str, parent: str) -> str:
        """Return the filters at one place of a device, in tc's words for people."""
        return _run([self.tc, "filter", "show", "dev", device, "parent", parent], ())

    def route(self, address: str) -> str | None:
        """Return the interface by which this host reaches an address; None if it does not."""
        try:
            said = _run([self.ip, "-json", "route", "get", address], ())
        except LinkError:
            return None
        return msgspec.json.decode(said, type=list[Route])[0].dev

    def change(self, *words: str) -> None:
        """Run `ip` to change something."""
        _run([self.ip, *words], ())


def find_tools() -> Tools:
    """Find the two programs; LinkError."""
    found = {name: shutil.which(name, path=_SEARCHED) for name in ("tc", "ip")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise LinkError(f"{' and '.join(missing)} not found: install iproute2 (Debian: apt-get install iproute2)")
    return Tools(*(path or "" for path in found.values()))


def load_ifb() -> None:
    """Load the module of IFB devices without the two that it makes by default; where that fails, `ip` tells."""
    modprobe = shutil.which("modprobe", path=_SEARCHED)
    if modprobe is not None and not os.path.exists("/sys/module/ifb"):  # noqa: PTH110 - a question, no path to keep
        subprocess.run([modprobe, "--quiet", "ifb", "numifbs=0"], check=False, capture_output=True, timeout=_TIMEOUT_S)


def _run(argv: Sequence[str], lines: Sequence[str]) -> str:
    text = "".join(f"{one}\n" for one in lines)
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env=_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise LinkError(f"{' '.join(argv)} did not end within {_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise LinkError(_why(argv, lines, done.stderr))
    return done.stdout


def _environment() -> dict[str, str]:
    return {"PATH": _SEARCHED, "LC_ALL": "C"}


def _why(argv: Sequence[str], lines: Sequence[str], stderr: str) -> str:
    said = [each.strip() for each in stderr.splitlines() if each.strip()]
    what = " ".join(argv)
    if said and said[-1].startswith("Command failed -:"):
        number = int(said[-1].rpartition(":")[2])
        what, said = f"tc {lines[number - 1]}", said[:-1]
    answer = "; ".join(said) or "nothing"
    if "Operation not permitted" in answer:
        return "only root may shape a link: log in as root, or give this user sudo without a password"
    for word, module in {**_ACTIONS, **_MODULES}.items():
        if {word, "add"} <= set(what.split()) and any(sign in answer for sign in _NOT_THERE):
            return f"this host's kernel has no {word} (module {module}), so it cannot shape a link: {answer} ({what})"
    return f"{what} was refused: {answer}"
