"""A warm `up` by this toolkit's own functions, in a process of its own, for bench/fanout.py to count its round trips.

    python bench/fanout_up.py up PLAN.json

Prints the seconds from the beginning to the event that the campaign runs; the campaign then ends by itself.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import msgspec
from fanout_ours import Plan

from deploy.campaign import Request, up
from deploy.inventory import Inventory
from deploy.playbook import load_playbook
from deploy.remote.ssh import connect
from deploy.view import Silent
from flcommon import events


class Clock(Silent):
    """A view that takes the time at which the campaign runs."""

    def __init__(self) -> None:
        self.began_s, self.running_s = time.monotonic(), 0.0

    def event(self, host: str, event: events.AnyEvent) -> None:  # noqa: ARG002 - the view's signature
        """Look out for one event."""
        if isinstance(event, events.CampaignStarted):
            self.running_s = time.monotonic()


def seconds_until_it_runs(plan: Plan) -> float:
    """Run a small campaign by `deploy.campaign.up`, as `deploy up` does."""
    server, *clients = plan.hosts().values()
    file = Path(plan.out, "small.yaml")
    file.write_text("playbook: small\napp: flclient.apps.payload\nrounds: 1\nwarmup_rounds: 0\n")
    inventory = Inventory(
        file=file,
        lab="bench",
        playbook=None,
        server=server,
        server_address="127.0.0.1:0",
        clients=tuple(clients),
    )
    request = Request(contextlib.nullcontext(inventory), load_playbook(file), Path(plan.out, "runs"), connect)
    clock = Clock()
    up(request, clock)
    return clock.running_s - clock.began_s


if __name__ == "__main__":
    print(seconds_until_it_runs(msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Plan)))
