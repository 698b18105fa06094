"""A whole campaign, from `up` to the pulled logs, on hosts whose natural delays are known."""

from __future__ import annotations

import contextlib
import time

import pytest

from deploy.campaign import Request, up
from deploy.inventory import load_inventory
from deploy.playbook import load_playbook
from deploy.remote.ssh import connect
from deploy.view import Silent
from flcommon.eventlog import read_log
from flcommon.events import ClockExchange, Delayed
from tests.cable import Both, Way, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))

PLAYBOOK = """
playbook: small
app: flclient.apps.payload
run_config: {payload-bytes: 1000}
rounds: 8
probe: off
delay: {at: before-upload, probability: 1, seconds: 0.05}
"""
CABLES = (Both.of(5), Both(Way(delay_ms=30), Way(delay_ms=10)))


def run(lab, place):
    """Run the playbook; returns the log of each host."""
    (place / "playbook.yaml").write_text(PLAYBOOK)
    inventory = load_inventory(lab.inventory)
    request = Request(
        contextlib.nullcontext(inventory), load_playbook(place / "playbook.yaml"), place / "runs", connect
    )
    up(request, Silent())
    (directory,) = (place / "runs" / inventory.lab).iterdir()
    return {host.name: read_log(directory / "raw" / host.name / "events.jsonl").events for host in inventory.hosts}


def asked_ms(host):
    """Return how long it takes to ask a host something over a connection that is there."""
    remote = connect(host)
    try:
        took = []
        for _ in range(3):
            began = time.monotonic()
            remote.read(["true"], step="ask")
            took.append((time.monotonic() - began) * 1000)
    finally:
        remote.close()
    return min(took)


def round_trips_ms(log, client):
    """Return how long the server's and the client's words were on their way, there and back."""
    return [
        (stamp.mono_ns - event.server_sent_mono_ns - event.client_sent_mono_ns + event.client_received_mono_ns) / 1e6
        for stamp, event in log
        if isinstance(event, ClockExchange) and event.client == client
    ]


@pytest.mark.parametrize("through", [False, True], ids=["beside", "through"])
def test_a_campaign_over_cables(cabled_lab, tmp_path, through):
    """The logs show the delays that are there, and those that the playbook asks for; SSH meets them if it is to."""
    lab = cabled_lab(*CABLES, through=through)
    inventory = load_inventory(lab.inventory)
    far = [asked_ms(host) for host in inventory.clients]
    assert min(far) < 40  # no more than it takes anyway, or two round trips of 10 ms
    assert (far[1] >= 40) is through
    ends = dict(enumerate(inventory.clients, 1))
    for end in ends:
        lab.cable.truth(end)
    logs = run(lab, tmp_path)
    truths = [lab.cable.truth(end).rtt_ms for end in ends]
    assert truths == pytest.approx([both.up.delay_ms + both.down.delay_ms for both in CABLES], abs=0.8)
    # What the engine takes on top is the same on both, but for what else this machine does.
    near, far = (min(round_trips_ms(logs["server"], host.name)) for host in inventory.clients)
    assert near >= truths[0]
    assert far - near == pytest.approx(truths[1] - truths[0], abs=max(1.0, 0.05 * truths[1]))
    for host in inventory.clients:
        waited = [event.measured_s for _, event in logs[host.name] if isinstance(event, Delayed)]
        assert min(waited) == pytest.approx(0.05, abs=0.0025)
