"""`deploy down`: ends every process of the toolkit on a lab's hosts, and with `--purge` removes what was pushed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy import hostside
from deploy.facts import look_at_ours
from deploy.keepers import unshape
from deploy.remote.fanout import ask_each
from deploy.worker import stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.inventory import Host, Inventory
    from deploy.remote.fanout import Outcome
    from deploy.remote.protocol import Remote

STEP = "purge"


def take_down(inventory: Inventory, connect: Callable[[Host], Remote], *, purge: bool = False) -> Outcome[str]:
    """Stop what runs on all hosts, and with `purge` remove all that the toolkit keeps in their work directories.

    Returns a sentence per host, and the failures of those that could not be cleared: they keep no other from it.
    """
    return ask_each(
        inventory.hosts,
        connect,
        lambda host, remote: ", ".join(_clear(host, remote, purge=purge)) or "nothing was running",
    )


def _clear(host: Host, remote: Remote, *, purge: bool) -> Iterator[str]:
    facts = look_at_ours(host, remote)
    for directory in facts.running:
        stop(remote, facts, directory)
        yield f"stopped {directory}"
    yield from unshape(remote, facts)
    if purge:
        told = remote.run(["sh", "-c", hostside.source("purge.sh"), "purge", facts.workdir], step=STEP)
        yield told.strip()
