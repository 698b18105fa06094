"""Which lab a command is about: read from its inventory, found where it stands, or started for as long as it takes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from deploy.errors import InputError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from deploy.inventory import Inventory, NetnsLab, VirtualLab
    from deploy.playbook import Playbook

    AnyLab = Inventory | VirtualLab | NetnsLab


def inputs(inventory: Path | None, playbook: Path | None) -> tuple[AnyLab, Playbook]:
    """Read both files before anything is started, and see that they fit each other."""
    from deploy import defaults  # noqa: PLC0415 - keeps --help fast
    from deploy.playbook import load_playbook  # noqa: PLC0415
    from deploy.shaping import client_rules  # noqa: PLC0415

    lab = any_lab(inventory)
    if playbook is None and lab.playbook is not None and not lab.playbook.exists():
        raise InputError(lab.file, f"no such file: {lab.playbook}", key="playbook")
    loaded = load_playbook(playbook or lab.playbook or defaults.playbook_path())
    client_rules(loaded, _labels(lab))
    return lab, loaded


def _labels(lab: AnyLab) -> dict[str, dict[str, str]]:
    """Return the clients' labels; hosts that the toolkit starts have none."""
    from deploy.inventory import Inventory  # noqa: PLC0415 - keeps --help fast

    if isinstance(lab, Inventory):
        return {host.name: host.labels for host in lab.clients}
    return {name: {} for name in lab.names[1:]}


def any_lab(inventory: Path | None) -> AnyLab:
    """Read an inventory, or the embedded one."""
    from deploy import defaults  # noqa: PLC0415 - keeps --help fast
    from deploy.inventory import load_inventory  # noqa: PLC0415

    return load_inventory(inventory or defaults.inventory_path())


def real_lab(inventory: Path) -> Inventory:
    """Return a lab whose hosts outlive the command; raises InputError for a virtual one, or one that is not up."""
    return staying(any_lab(inventory))


def staying(lab: AnyLab) -> Inventory:
    """Return the hosts of a lab that are there without this command; raises InputError if there are none."""
    hosts = standing(lab)
    if hosts is None:
        raise InputError(lab.file, why_gone(lab), key="provider")
    return hosts


def standing(lab: AnyLab) -> Inventory | None:
    """Return the hosts of a lab that are there without this command: real ones, or those of `deploy lab up`."""
    from deploy.inventory import NetnsLab, VirtualLab  # noqa: PLC0415 - keeps --help fast

    if isinstance(lab, NetnsLab):
        from deploy.providers.netns.lab import find_lab  # noqa: PLC0415

        return find_lab(lab)
    return None if isinstance(lab, VirtualLab) else lab


def why_gone(lab: AnyLab) -> str:
    """Say why a lab that the toolkit starts has no hosts now."""
    from deploy.inventory import NetnsLab  # noqa: PLC0415 - keeps --help fast

    if isinstance(lab, NetnsLab):
        return f"lab {lab.lab} is not up (deploy lab up {lab.file})"
    return "a virtual lab's hosts are gone with the command that started them"


def netns_only(inventory: Path) -> NetnsLab:
    """Return a lab of network namespaces; raises InputError for any other."""
    from deploy.inventory import NetnsLab  # noqa: PLC0415 - keeps --help fast

    lab = any_lab(inventory)
    if not isinstance(lab, NetnsLab):
        raise InputError(lab.file, "`deploy lab` is for `provider: netns`; other hosts are not its business")
    return lab


def entered(lab: AnyLab) -> AbstractContextManager[Inventory]:
    """Return the lab's hosts as something to enter: a virtual lab starts them, and so does a netns lab if need be."""
    from deploy.inventory import NetnsLab, VirtualLab  # noqa: PLC0415 - keeps --help fast
    from deploy.providers.netns.lab import netns_lab  # noqa: PLC0415
    from deploy.providers.virtual.lab import virtual_lab  # noqa: PLC0415

    if isinstance(lab, NetnsLab):
        return netns_lab(lab)
    return virtual_lab(lab) if isinstance(lab, VirtualLab) else contextlib.nullcontext(lab)
