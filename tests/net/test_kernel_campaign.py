"""Whole campaigns with a link that a real kernel shapes: a guest with netem and a clock of its own, behind a cable.

The cable's delay is natural, known, and none of the toolkit's doing; the guest's clock is wrong by a known amount.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import msgspec
import pytest

from deploy.analysis.reading.dataset import read_dataset
from deploy.attach import Place, attach
from deploy.campaign import Request, up
from deploy.inventory import NetnsLab, load_inventory
from deploy.playbook import load_playbook
from deploy.providers.netns import links
from deploy.providers.netns.lab import netns_lab
from deploy.remote.ssh import connect
from deploy.view import Silent
from flcommon.eventlog import read_log
from flcommon.events import CampaignEnded, LinkLifted, LinkRestored, LinkSet
from tests.cable import Both, Cable, Way, carried, why_not
from tests.cabledlab import INTERFACE, namespace_of, written
from tests.cableplan import End
from tests.net.uml import missing, set_clock, with_guests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.inventory import Host

pytestmark = [
    pytest.mark.skipif(bool(why_not() or missing()), reason=f"{why_not() or missing()}"),
    pytest.mark.timeout(300),
]

GUEST = "client-1"
CABLE = Both(up=Way(delay_ms=20), down=Way(delay_ms=10))
INJECTED_MS = (5.0, 20.0, 100.0)
OFFSET_S, DRIFT_PPM = 3.5, 200.0
LEASE_S = 12.0
"""In place of 45 s, so that the test of what happens afterwards need not wait so long; a word comes every 10 s."""
PLAYBOOK = """
playbook: kernel
app: flclient.apps.payload
run_config: {payload-bytes: 1000}
rounds: 9
order: listed
control: every 3 rounds
sweep: {link.delay_ms: [5, 20, 100]}
"""
LONG = """
playbook: long
app: flclient.apps.payload
run_config: {payload-bytes: 1000}
rounds: 60
probe: off
warmup_rounds: 0
link: {delay_ms: 100, layer: kernel}
"""
CONTROLLER = f"""
import functools
from deploy import shaping
shaping.Shaping = functools.partial(shaping.Shaping, lease_s={LEASE_S})
from deploy.cli import main
main()
"""


@dataclass(frozen=True)
class GuestLab:
    """A lab of a server and one client, which is a guest; `inventory` is a file for `deploy`."""

    inventory: Path
    cable: Cable

    @property
    def guest(self) -> Host:
        return load_inventory(self.inventory).clients[0]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestLab]:
    place = tmp_path_factory.mktemp("guest")
    described = NetnsLab(file=place / "lab.yaml", lab="guests", playbook=None, clients=1)
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(netns_lab(described))
        guests = with_guests(hosts, GUEST)
        network = links.free_network(links.routes_here("ip"))
        server, client = str(network[1]), str(network[2])
        ends = [
            End(address=server, interface=INTERFACE, namespace=namespace_of(hosts.server)),
            End(
                address=client,
                interface=INTERFACE,
                namespace=namespace_of(hosts.clients[0]),
                behind=(guests.clients[0].host,),
                up=CABLE.up,
                down=CABLE.down,
            ),
        ]
        cable = stack.enter_context(carried(ends, network.prefixlen))
        with connect(guests.clients[0]) as remote:
            route = ["ip", "route", "add", f"{server}/32", "via", hosts.clients[0].host]
            remote.run(route, step="route")
            set_clock(remote, OFFSET_S, DRIFT_PPM)
        file = place / "inventory.yaml"
        file.write_bytes(msgspec.yaml.encode(written(guests, network, place, through=False)))
        yield GuestLab(file, cable)


def told(host: Host, *argv: str) -> str:
    with connect(host) as remote:
        return remote.read(argv, step="look")


def qdiscs(host: Host) -> str:
    return told(host, "tc", "qdisc", "show") + told(host, "ls", "/sys/class/net")


def test_the_report_tells_natural_from_injected(lab: GuestLab, tmp_path: Path) -> None:
    """By the kernel, which is chosen by itself: the cable's delays and those that were asked for, in each direction.

    Within the greater of 1 ms and 5 %; of the natural medians, which are the same in all conditions, the lowest. The
    guest's clock is found as it was set, and afterwards its queueing disciplines are what they were.
    """
    (tmp_path / "playbook.yaml").write_text(PLAYBOOK)
    before = qdiscs(lab.guest)
    inventory = load_inventory(lab.inventory)
    request = Request(
        contextlib.nullcontext(inventory), load_playbook(tmp_path / "playbook.yaml"), tmp_path / "runs", connect
    )
    up(request, Silent())
    assert qdiscs(lab.guest) == before
    truth = lab.cable.truth(1)
    (run,) = (tmp_path / "runs" / inventory.lab).iterdir()
    dataset = read_dataset(run)
    assert dataset.manifest.shaping[GUEST].layer == "kernel"
    rows = sorted((row for row in dataset.network.rows if not row.control), key=lambda row: row.condition)
    for name, carried_ms in (("down", truth.down.held_ms), ("up", truth.up.held_ms)):
        ways, natural_ms = [getattr(row, name) for row in rows], median(carried_ms)
        for way, injected_ms in zip(ways, INJECTED_MS, strict=True):
            assert way.measured_ms == pytest.approx(injected_ms, abs=max(1.0, 0.05 * injected_ms))
            assert way.overflowed == 0
        least_ms = min(way.natural_ms.median for way in ways)
        assert least_ms == pytest.approx(natural_ms, abs=max(1.0, 0.05 * natural_ms) + ways[0].uncertainty_ms)
    (clock,) = [one for one in dataset.clocks if one.client == GUEST]
    first_s, last_s = clock.wall_offset_s
    assert first_s - OFFSET_S == pytest.approx(0, abs=0.05)
    assert last_s > first_s
    assert abs(clock.wall_drift_ppm - DRIFT_PPM) < clock.drift_uncertainty_ppm + 20
    assert clock.steps == ()


def test_the_link_is_natural_soon_after_its_controller_was_killed(lab: GuestLab, tmp_path: Path) -> None:
    """The client holds then; a controller that attaches brings the link back, and the campaign goes on to its end."""
    (tmp_path / "playbook.yaml").write_text(LONG)
    before = qdiscs(lab.guest)
    asked = [lab.inventory, "--playbook", tmp_path / "playbook.yaml", "--runs", tmp_path / "runs"]
    with subprocess.Popen([sys.executable, "-c", CONTROLLER, "up", *asked], stdout=subprocess.PIPE) as controller:
        try:
            wait_for(lambda: "netem" in qdiscs(lab.guest) and "delay 100ms" in qdiscs(lab.guest))
        finally:
            controller.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: qdiscs(lab.guest) == before, patience_s=LEASE_S + 20)
    assert time.monotonic() - killed < LEASE_S + 15
    inventory = load_inventory(lab.inventory)
    attach(Place(contextlib.nullcontext(inventory), tmp_path / "runs", connect), Silent())
    assert qdiscs(lab.guest) == before
    (run,) = (tmp_path / "runs" / inventory.lab).iterdir()
    logs = {host: read_log(run / "raw" / host / "events.jsonl").events for host in ("server", GUEST)}
    lifted = [type(event) for _, event in logs[GUEST] if isinstance(event, LinkLifted | LinkRestored)]
    assert lifted == [LinkLifted, LinkRestored]
    assert any(isinstance(event, LinkSet) for _, event in logs[GUEST])
    assert [event.ok for _, event in logs["server"] if isinstance(event, CampaignEnded)] == [True]
    assert any("link" in problem for problem in read_dataset(run).problems)


def wait_for(so, patience_s: float = 90.0) -> None:
    """Return when something is so: it is another kernel's, which tells of nothing by itself."""
    deadline = time.monotonic() + patience_s
    while not so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)
