"""A campaign whose clients' links are shaped by relays: proved, changing in time, left alone in control rounds.

All processes are on one host, so that one clock tells how long each message took.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from flcommon.events import (
    CampaignEnded,
    CampaignStarted,
    Failed,
    LinkProved,
    LinkReady,
    LinkSet,
    LinkUsed,
    Listening,
    MessageReceived,
    MessageSent,
    Probed,
    ReplyReceived,
    ReplySent,
    RoundStarted,
)
from flcommon.job import AppRef, ClientJob, ClientTrial, ServerJob, ServerTrial, Shaping
from flcommon.link import Link, State, Step, Steps, Switching, Way

if TYPE_CHECKING:
    from collections.abc import Callable

APP = AppRef(client="flclient.apps.payload.client_app:app", server="flclient.apps.payload.server_app:app")
CLIENTS = ("shaped", "free")
ROUNDS = 6
UP_MS, DOWN_MS = 40.0, 15.0
FIXED = Link(course=Steps(steps=(Step(up=Way(delay_ms=UP_MS), down=Way(delay_ms=DOWN_MS)),)))
SWITCHING = Link(
    course=Switching(
        states={
            "near": State(mean_s=0.3, up=Way(delay_ms=5)),
            "far": State(mean_s=0.3, up=Way(delay_ms=30)),
        }
    )
)
SLOW = Link(course=Steps(steps=(Step(up=Way(rate_mbit=10)),)))
LINKS = (FIXED, SWITCHING, SLOW)
"""Of trials 0, 1, 2; every third round is a control round."""
PAYLOAD = 50_000


def server_trial(index: int) -> ServerTrial:
    config = {"num-server-rounds": ROUNDS, "payload-bytes": PAYLOAD}
    return ServerTrial(index=index, seed=7, run_config=config, rounds=ROUNDS, control_every=3)


def client_trial(index: int, link: Link | None) -> ClientTrial:
    return ClientTrial(index=index, seed=7, run_config={}, schedule=index, link=link, control_every=3)


def start(campaign: Any, shaping: Shaping | None, *links: Link) -> None:
    common = {"campaign": "c1", "app": APP}
    trials = tuple(server_trial(index) for index in range(len(links)))
    server = ServerJob(**common, host="server", listen="127.0.0.1:0", clients=CLIENTS, trials=trials, probe=True)
    campaign.start("flserver", server)
    address = campaign.wait_for("server", Listening).address
    for host in CLIENTS:
        shaped = host == "shaped"
        job = ClientJob(
            **common,
            host=host,
            delay_seed=3,
            node_config={},
            server_address=address,
            shaping=shaping if shaped else None,
            trials=tuple(client_trial(index, link if shaped else None) for index, link in enumerate(links)),
        )
        campaign.start("flclient", job)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, make_campaign: Callable) -> Any:
    with make_campaign(tmp_path_factory.mktemp("shaped")) as campaign:
        start(campaign, Shaping(layer="relay"), *LINKS)
        return campaign.story(90.0)


def took_ms(story: Any, host: str, trial: int, *, up: bool) -> dict[int, float]:
    """Return how long the message of each round was on its way: from its first byte until it was there whole."""
    sender, sent, got = (host, ReplySent, ReplyReceived) if up else ("server", MessageSent, MessageReceived)
    began = {event.message: at for at, event in story.stamped(sender, sent) if event.trial == trial}
    there = story.stamped("server" if up else host, got)
    return {
        event.round: 1000 * (at - began[event.message])
        for at, event in there
        if event.client == host and event.trial == trial and event.kind == "train"
    }


def controls(story: Any, trial: int) -> set[int]:
    return {event.round for event in story.events("server", RoundStarted) if event.control and event.trial == trial}


def test_the_campaign_ends_well(story: Any) -> None:
    assert story.statuses == {"server": 0, "shaped": 0, "free": 0}
    assert story.events("server", CampaignEnded) == [CampaignEnded(ok=True, trials_done=len(LINKS))]
    assert [event.layer for event in story.events("shaped", LinkReady)] == ["relay"]
    assert story.events("free", LinkReady, LinkSet, LinkProved) == []


def test_each_link_is_proved_before_its_trial(story: Any) -> None:
    """A fixed one once, one that switches in each of its states, a rate by what it carries."""
    proved = {trial: [e for e in story.events("shaped", LinkProved) if e.trial == trial] for trial in range(3)}
    (fixed,) = proved[0]
    assert abs(fixed.measured_up_ms - UP_MS) < 0.05 * UP_MS
    assert abs(fixed.measured_down_ms - DOWN_MS) < 1.0
    assert sorted(one.requested_up_ms for one in proved[1]) == [5.0, 30.0]
    (slow,) = proved[2]
    assert slow.up_mbit == pytest.approx(10 * 1448 / 1514, rel=0.1)


def test_messages_take_longer_by_what_is_injected_and_only_then(story: Any) -> None:
    """Both directions of the shaped client; its control rounds and the other client are as without.

    By the fastest of each: what holds up single messages on a busy machine is not the link.
    """
    for up, injected_ms in ((True, UP_MS), (False, DOWN_MS)):
        took = took_ms(story, "shaped", 0, up=up)
        natural = min(took[number] for number in controls(story, 0))
        injected = min(ms for number, ms in took.items() if number not in controls(story, 0))
        assert abs(injected - natural - injected_ms) < max(1.0, 0.05 * injected_ms) + 1.0
        assert min(took_ms(story, "free", 0, up=up).values()) < injected_ms / 2
    assert controls(story, 0) == {3, 6}


def test_a_rate_is_felt_by_every_message(story: Any) -> None:
    """50 kB take 42 ms at 10 Mbit/s."""
    took = took_ms(story, "shaped", 2, up=True)
    assert min(ms for number, ms in took.items() if number not in controls(story, 2)) > 0.9 * 8 * PAYLOAD / 9560


def test_what_was_set_is_logged_with_what_was_applied(story: Any) -> None:
    """At the beginning of each trial, and around each control round; also that nothing is injected any more."""
    told = [event for event in story.events("shaped", LinkSet) if event.trial == 0]
    injected = [event for event in told if event.up is not None]
    assert {event.up for event in injected} == {Way(delay_ms=UP_MS)}
    assert all(event.applied_up["delay_ms"] == pytest.approx(UP_MS, abs=0.1) for event in injected)
    assert told[-1].up is told[-1].down is told[-1].applied_up is None
    cleared = [event.round for event in told if event.up is None]
    assert all(any(number in {one - 1, one} for number in cleared) for one in controls(story, 0))
    states = {event.state for event in story.events("shaped", LinkSet) if event.trial == 1 and event.up is not None}
    assert states == {"near", "far"}


def test_the_relay_tells_what_it_did_to_each_message(story: Any) -> None:
    """Beside each message and direction: all of its bytes, and how long they were held."""
    used = [event for event in story.events("shaped", LinkUsed) if event.trial == 0]
    both = (True, False)
    assert {(event.round, event.up) for event in used} == {(r, up) for r in range(1, ROUNDS + 1) for up in both}
    free = controls(story, 0)
    told = [(one.size_bytes, one.held_mean_ms) for one in used if one.up and one.size_bytes and one.round not in free]
    assert sum(size for size, _ in told) > (ROUNDS - len(free)) * PAYLOAD
    assert min(held for _, held in told) == pytest.approx(UP_MS, rel=0.05)


def test_the_natural_path_is_probed_before_and_after(story: Any) -> None:
    """Through the relay, which then injects nothing."""
    probed = story.events("shaped", Probed)
    assert [one.stage for one in probed] == ["before", "after"]
    assert max(median(one.rtt_ms) for one in probed) < UP_MS / 4


def test_a_link_that_cannot_be_as_asked_ends_the_campaign_at_once(campaign: Any) -> None:
    """A relay cannot reorder: one clear sentence, and nobody goes on without that client."""
    way = Way(delay_ms=10, reorder_pct=5)
    start(campaign, Shaping(layer="relay"), Link(course=Steps(steps=(Step(up=way),))))
    campaign.wait_for("server", CampaignStarted)
    story = campaign.story()
    assert all(status == 1 for status in story.statuses.values())
    (said,) = story.events("shaped", Failed)
    assert said.step == "link"
    assert "reorder" in said.reason
    assert said.reason in story.events("server", Failed)[0].reason
