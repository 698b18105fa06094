"""A lab of real SSH servers on loopback, and what tests of it need."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.inventory import VirtualLab
from deploy.providers.virtual import virtual_lab
from deploy.remote import ssh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.inventory import Inventory


@pytest.fixture(scope="session")
def lab() -> Iterator[Inventory]:
    with virtual_lab(VirtualLab(file=Path("virtual.yaml"), lab="tests", playbook=None, clients=2)) as inventory:
        yield inventory


@pytest.fixture
def remote(lab: Inventory) -> Iterator[ssh.SshRemote]:
    with ssh.connect(lab.server) as remote:
        yield remote


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """Every connection's threads end with it."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), f"{thread} was left behind"
