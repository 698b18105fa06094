"""What only shows when hosts are compared: versions that differ, clocks that disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.facts import Facts, Finding, pip, version
from deploy.health import Clock, keep_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.health import Examined
    from deploy.inventory import Inventory

CONTROLLER = "this machine"
"""Stands among the hosts where the controller itself is meant; no host's name holds a space."""
APART_S = 1.0
COMPARED = ("flwr", "torch")


def differences(inventory: Inventory, seen: Mapping[str, Examined]) -> dict[str, list[Finding]]:
    """Return findings by host, or by CONTROLLER, from all hosts that could be looked at."""
    found: dict[str, list[Finding]] = {name: [] for name in (CONTROLLER, *seen)}
    for name, finding in (*_clocks(seen).items(), *_versions(inventory, seen)):
        found[name].append(finding)
    return found


def _clocks(seen: Mapping[str, Examined]) -> dict[str, Finding]:
    """Name the clocks that are surely a second off the median one; the controller's is one of them."""
    clocks = {name: one.clock for name, one in seen.items() if one.clock is not None}
    clocks[CONTROLLER] = Clock(0.0, 0.0)
    median = sorted(clocks.values(), key=lambda clock: clock.offset_s)[(len(clocks) - 1) // 2]
    found = {}
    for name, clock in clocks.items():
        apart_s, error_s = clock.offset_s - median.offset_s, clock.error_s + median.error_s
        if abs(apart_s) - error_s > APART_S:
            side = "ahead of" if apart_s > 0 else "behind"
            what = f"its clock is {abs(apart_s):.1f} s {side} most of the others' (± {error_s:.2f} s)"
            fix = "sudo timedatectl set-ntp true" if name == CONTROLLER else keep_time(seen[name].facts)
            found[name] = Finding("warning", "clock-offset", what, fix)
    return found


def _versions(inventory: Inventory, seen: Mapping[str, Examined]) -> list[tuple[str, Finding]]:
    """Compare with the server what is not prepared for all hosts alike."""
    as_found = [host.name for host in inventory.hosts if host.name in seen and host.python.manager == "existing"]
    server = inventory.server.name
    if server not in as_found:
        return []
    reference = seen[server].facts
    return [(name, finding) for name in as_found for finding in _differing(seen[name].facts, reference)]


def _differing(facts: Facts, reference: Facts) -> list[Finding]:
    found = []
    for package in COMPARED:
        here, there = _public(facts.packages.get(package)), _public(reference.packages.get(package))
        if here and there and here != there:
            what = f"it has {package} {here}, the server {there}"
            found.append(Finding("warning", "versions", what, pip(facts, [f"{package}=={there}"])))
    ours, theirs = version(facts), version(reference)
    if ours and theirs and ours != theirs:
        what = f"it has Python {facts.python_version}, the server {reference.python_version}"
        fix = (
            f"set python.path in the inventory to a Python {theirs[0]}.{theirs[1]}, or let python.manager: uv bring it"
        )
        found.append(Finding("warning", "versions", what, fix))
    return found


def _public(version: str | None) -> str | None:
    """Return a version without what its builder added: 2.5.1+cpu is the same code as 2.5.1."""
    return version and version.partition("+")[0]
