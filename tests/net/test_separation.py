"""What a report says of the network: natural and injected, each as it was, for every layer.

Hosts on cables that the toolkit has no hand in, a campaign from `up` to the analysis, and the cables' own word for what
they did. Compared is what a reader sees: medians of small messages, whose way is no longer than the link's.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import pytest

from deploy.analysis.reading.dataset import read_dataset
from deploy.campaign import Request, up
from deploy.inventory import load_inventory
from deploy.playbook import load_playbook
from deploy.remote.ssh import connect
from deploy.view import Silent
from tests.cable import Both, Way, why_not

if TYPE_CHECKING:
    from deploy.analysis.reading.network import NetworkRow
    from deploy.analysis.reading.rows import Dataset

pytestmark = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))

BUSY_MS = 4.0
"""What a busy machine may add to a median."""
INJECTED_MS = (5.0, 20.0, 100.0)
CABLES = (Both.of(5), Both(Way(delay_ms=30), Way(delay_ms=10)), Both.of(100))
PLAYBOOK = """
playbook: separation
app: flclient.apps.payload
run_config: {payload-bytes: 1000}
rounds: 9
order: listed
control: every 3 rounds
link: {layer: relay}
sweep: {link.delay_ms: [5, 20, 100]}
"""
RATE = """
playbook: rate
app: flclient.apps.payload
run_config: {payload-bytes: 500000}
rounds: 4
probe: off
link: {layer: relay, rate_mbit: 10}
"""


def tolerance_ms(true_ms: float) -> float:
    return max(1.0, 0.05 * true_ms)


@dataclass(frozen=True)
class Played:
    """The analysis of a run, and the one-way delays that the cables really had, by client: down and up."""

    dataset: Dataset
    truths: dict[str, tuple[float, float]]

    def rows(self, client: str, *, control: bool) -> list[NetworkRow]:
        """Return the rows of a client in the order of the conditions."""
        found = [row for row in self.dataset.network.rows if row.client == client and row.control is control]
        return sorted(found, key=lambda row: row.condition or 0)


def play(lab, place, playbook):
    (place / "playbook.yaml").write_text(playbook)
    inventory = load_inventory(lab.inventory)
    loaded = load_playbook(place / "playbook.yaml")
    up(Request(contextlib.nullcontext(inventory), loaded, place / "runs", connect), Silent())
    (run,) = (place / "runs" / inventory.lab).iterdir()
    truths = {}
    for end, host in enumerate(inventory.clients, 1):
        truth = lab.cable.truth(end)
        truths[host.name] = (median(truth.down.held_ms), median(truth.up.held_ms))
    return Played(read_dataset(run), truths)


@pytest.fixture
def played(cabled_lab, tmp_path):
    return play(cabled_lab(*CABLES), tmp_path, PLAYBOOK)


def test_the_report_tells_natural_from_injected(played):
    """Through relays, at 5, 20 and 100 ms of each: within the greater of 1 ms and 5 %, in each direction.

    The natural network is the same in all conditions: of their medians the lowest counts, as a machine that is busy in
    one of them adds to it; and what is injected must be in none of them.
    """
    assert played.dataset.network.linked
    for client, truth in played.truths.items():
        rows = played.rows(client, control=False)
        assert [row.layer for row in rows] == ["relay"] * len(INJECTED_MS)
        for name, natural_ms in zip(("down", "up"), truth, strict=True):
            ways = [getattr(row, name) for row in rows]
            for way, injected_ms in zip(ways, INJECTED_MS, strict=True):
                assert way.requested_ms == injected_ms
                assert way.measured_ms == pytest.approx(injected_ms, abs=tolerance_ms(injected_ms))
                assert way.natural_ms.median == pytest.approx(natural_ms, abs=tolerance_ms(natural_ms) + BUSY_MS)
            least_ms = min(way.natural_ms.median for way in ways)
            assert least_ms == pytest.approx(natural_ms, abs=tolerance_ms(natural_ms))


def test_a_rate_is_found_in_what_messages_took(cabled_lab, tmp_path):
    """10 Mbit/s carry 9.56 of payload: within 10 %."""
    game = play(cabled_lab(Both.of(5)), tmp_path, RATE)
    (row,) = game.rows("client-1", control=False)
    for way in (row.down, row.up):
        assert way.goodput_mbit == pytest.approx(10 * 1448 / 1514, rel=0.1)
