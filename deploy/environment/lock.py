"""A lock: every package of an environment with its version and its hashes, as `uv pip compile` prints it."""

from __future__ import annotations

import hashlib
import re

import msgspec

from deploy.environment.target import Target

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)", re.MULTILINE)
_INDEX = re.compile(r"^\s*# from (?P<index>\S+)$")


class Lock(msgspec.Struct, frozen=True):
    """The pins for one kind of host, with hashes and without comments; `torch_index` is where its PyTorch lies.

    `torch_index` is None where PyTorch comes from the same index as all else.
    """

    target: Target
    text: str
    torch_index: str | None = None

    @property
    def key(self) -> str:
        """What it is known by: equal for equal pins on equal kinds of host."""
        told = f"{self.target.uv_platform}\n{self.target.python}\n{self.text}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def versions(self) -> dict[str, str]:
        """The version of every distribution."""
        return {match["name"].lower(): match["version"] for match in _PIN.finditer(self.text)}

    def digest(self, python_version: str) -> str:
        """Return the name of its environment for a Python, which is asked for exactly or as 3.x."""
        return hashlib.sha256(f"{self.key}\n{python_version}".encode()).hexdigest()[:16]


def parse_lock(target: Target, compiled: str) -> Lock:
    """Return the lock that `uv pip compile` printed.

    Its comments do not belong to the lock; one that stands below torch (--emit-index-annotation) says whence it comes.
    """
    kept, torch_index, package = [], None, ""
    for line in compiled.splitlines():
        if match := _PIN.match(line):
            package = match["name"]
        if (found := _INDEX.match(line)) and package == "torch":
            torch_index = found["index"]
        if line.strip() and not line.lstrip().startswith("#"):
            kept.append(line.rstrip())
    return Lock(target, "".join(f"{line}\n" for line in kept), torch_index)
