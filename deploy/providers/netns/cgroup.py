"""The processor's share of a host, by a control group: of version 1 (`cpu`, CFS quota) or 2 (`cpu.max`)."""

from __future__ import annotations

import contextlib
import errno
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deploy.errors import DeployError
from deploy.providers.netns import mounts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from deploy.providers.netns.mounts import Mount
    from deploy.providers.netns.plan import LabPlan

PREFIX = "fieldlab-netns-"
PERIOD_S = 0.02
"""Shorter than the kernel's 0.1 s: a slow host should be slow all the time, not stand still for tenths of a second."""
_LEAST_QUOTA_S = 0.001
_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Hierarchy:
    """Where the control groups that share out the processor are mounted."""

    root: Path
    version: Literal[1, 2]

    def make(self, directory: Path, cores: float) -> None:
        """Make a group whose processes together get so many cores."""
        directory.mkdir()
        quota_us, period_us = (round(value * 1e6) for value in bandwidth(cores))
        if self.version == 1:
            (directory / "cpu.cfs_period_us").write_text(f"{period_us}")
            (directory / "cpu.cfs_quota_us").write_text(f"{quota_us}")
        else:
            (directory / "cpu.max").write_text(f"{quota_us} {period_us}")

    def hand_down(self, directory: Path) -> None:
        """Let the groups below a group have shares of their own (of version 1 they always have)."""
        control = directory / "cgroup.subtree_control"
        if self.version == 2 and "cpu" not in control.read_text().split():  # noqa: PLR2004 - the version
            control.write_text("+cpu")


def bandwidth(cores: float) -> tuple[float, float]:
    """Return quota and period in seconds: quota / period = cores, and no quota below the kernel's least."""
    period_s = max(PERIOD_S, _LEAST_QUOTA_S / cores)
    return cores * period_s, period_s


def find(mounts: Iterable[Mount]) -> Hierarchy | None:
    """Find the hierarchy in a mount table; None if nothing there shares out the processor."""
    for mount in mounts:
        if mount.kind == "cgroup" and "cpu" in mount.options:
            return Hierarchy(mount.point, 1)
        if mount.kind == "cgroup2" and "cpu" in _controllers(mount.point):
            return Hierarchy(mount.point, 2)
    return None


def _controllers(root: Path) -> list[str]:
    try:
        return (root / "cgroup.controllers").read_text().split()
    except OSError:
        return []


def here() -> Hierarchy | None:
    """Find the hierarchy of this machine."""
    return find(mounts.here())


def create(plan: LabPlan) -> None:
    """Make a group for each host that has a share; raises DeployError where that is not possible."""
    limited = {host.name: host.cpu for host in plan.request.hosts if host.cpu is not None}
    if not limited:
        return
    hierarchy = here()
    if hierarchy is None:
        raise DeployError("cpu: this machine has no control groups for the processor (cgroup v1 `cpu` or v2)")
    top = hierarchy.root / f"{PREFIX}{plan.id}"
    try:
        hierarchy.hand_down(hierarchy.root)
        top.mkdir()
        hierarchy.hand_down(top)
        for name, cores in limited.items():
            hierarchy.make(top / name, cores)
    except OSError as error:
        raise DeployError(f"cpu: this machine's control groups refuse a share: {error}") from error


def enter(plan: LabPlan, host: str) -> None:
    """Put this process, and all that it will start, into a host's group."""
    hierarchy = here()
    if hierarchy is not None:
        (hierarchy.root / f"{PREFIX}{plan.id}" / host / "cgroup.procs").write_text("0")


def remove(lab_id: str) -> None:
    """Remove a lab's groups, as soon as the last of its processes is gone."""
    hierarchy = here()
    if hierarchy is not None:
        _remove(hierarchy.root / f"{PREFIX}{lab_id}")


def remove_all_but(lab_ids: Collection[str]) -> None:
    """Remove the groups of all labs but these."""
    hierarchy = here()
    for top in hierarchy.root.glob(f"{PREFIX}*") if hierarchy is not None else ():
        if top.name.removeprefix(PREFIX) not in lab_ids:
            _remove(top)


def _remove(top: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    for directory in _deepest_first(top):
        while not _removed(directory) and time.monotonic() < deadline:
            time.sleep(0.005)


def _deepest_first(top: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        for below in top.iterdir():
            if below.is_dir():
                yield from _deepest_first(below)
    yield top


def _removed(directory: Path) -> bool:
    """Remove a group; False if a process is still in it."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        return error.errno != errno.EBUSY
    return True
