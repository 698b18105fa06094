"""What the network does by itself and what is injected are told apart: both are found again in the log as they were.

A server and clients at the ends of cables that the toolkit has no hand in, and all that is injected into one of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from flcommon.delay import Constant, Delay
from flcommon.events import (
    ClockExchange,
    ComputeEnded,
    Delayed,
    Listening,
    MessageReceived,
    MessageSent,
    OfMessage,
    ReplyReceived,
    ReplySent,
)
from flcommon.job import AppRef, ClientJob, ClientTrial, ServerJob, ServerTrial
from tests.cable import Both, Truth, cabled, why_not
from tests.cableplan import Way

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))

CABLES = {
    "here": Both(),
    "near": Both.of(5),
    "middle": Both.of(20),
    "far": Both.of(100),
    "uneven": Both(Way(delay_ms=30), Way(delay_ms=10)),
}
FIRST = ["nice", "-n", "-20"]
"""What else this machine does is neither natural nor injected here: these processes come before it."""
INJECTED_MS = (5.0, 20.0, 100.0)
"""One trial each."""
ROUNDS = 8
LAYERS = ("delay",)
FAR = [client for client in CABLES if client != "here"]
CASES = list(itertools.product(LAYERS, FAR, range(len(INJECTED_MS))))


def tolerance_ms(true_ms: float) -> float:
    """How far off what is found may be."""
    return max(1.0, 0.05 * true_ms)


@dataclass(frozen=True)
class Trip:
    """What the logs say of one message's way there and back, in milliseconds of one clock each.

    `client_ms` is from the whole message to its reply, but for what is injected; `down_ms` and
    `up_ms` are right as all hosts here have one clock.
    """

    whole_ms: float
    network_ms: float
    down_ms: float
    up_ms: float
    client_ms: float
    waited_ms: float


@dataclass(frozen=True)
class Played:
    """The trips by client and trial, and what the cables really did."""

    trips: dict[tuple[str, int], list[Trip]]
    truths: dict[str, Truth]


def injection(layer: str, injected_ms: float) -> dict[str, Any]:
    """Return what a client's trial has to say for this layer to inject so much into each round."""
    assert layer == "delay"
    return {"delay": Delay(probability=1.0, seconds=Constant(injected_ms / 1000))}


def play(layer: str, campaign: Any) -> Played:
    """Run one campaign with a trial for each delay, and a client on each cable."""
    config = {"num-server-rounds": ROUNDS, "payload-bytes": 1000}
    app = AppRef(client="flclient.apps.payload.client_app:app", server="flclient.apps.payload.server_app:app")
    common = {"campaign": "c1", "app": app}
    trials = [{"index": index, "seed": 7, "run_config": config} for index in range(len(INJECTED_MS))]
    with cabled(*CABLES.values()) as star:
        address = f"{star.address(0)}:9000"
        server = ServerJob(
            **common,
            host="server",
            listen=address,
            clients=tuple(CABLES),
            trials=tuple(ServerTrial(**trial, rounds=ROUNDS) for trial in trials),
        )
        campaign.start("flserver", server, [*star.inside(0), *FIRST])
        campaign.wait_for("server", Listening)
        for end, client in enumerate(CABLES, 1):
            job = ClientJob(
                **common,
                host=client,
                server_address=address,
                delay_seed=1,
                node_config={},
                trials=tuple(
                    ClientTrial(**trial, schedule=0, **injection(layer, injected_ms))
                    for trial, injected_ms in zip(trials, INJECTED_MS, strict=True)
                ),
            )
            campaign.start("flclient", job, [*star.inside(end), *FIRST])
        story = campaign.story(60)
        truths = {client: star.truth(end) for end, client in enumerate(CABLES, 1)}
    assert set(story.statuses.values()) == {0}
    return Played(trips_of(story), truths)


def by_message(story: Any, host: str, kind: type[OfMessage]) -> dict[str, tuple[float, Any]]:
    """Return a kind of events with their moments in ms, by message."""
    return {event.message: (seconds * 1000, event) for seconds, event in story.stamped(host, kind)}


def exchanges(story: Any) -> dict[str, tuple[float, float]]:
    """Return how long each message and its reply were on their way, in ms: down and up."""
    found = {}
    for stamp, event in story.readings["server"].events:
        if isinstance(event, ClockExchange) and event.message is not None:
            down_ns = event.client_received_wall_ns - event.server_sent_wall_ns
            found[event.message] = (down_ns / 1e6, (stamp.wall_ns - event.client_sent_wall_ns) / 1e6)
    return found


def trips_of(story: Any) -> dict[tuple[str, int], list[Trip]]:
    sent, replied = (by_message(story, "server", kind) for kind in (MessageSent, ReplyReceived))
    on_way = exchanges(story)
    logs = {
        client: [by_message(story, client, kind) for kind in (MessageReceived, ComputeEnded, Delayed, ReplySent)]
        for client in CABLES
    }
    trips: dict[tuple[str, int], list[Trip]] = {}
    for message, (sent_ms, event) in sent.items():
        received, ended, delayed, answered = (log[message] for log in logs[event.client])
        down_ms, up_ms = on_way[message]
        trip = Trip(
            whole_ms=replied[message][0] - sent_ms,
            network_ms=down_ms + up_ms,
            down_ms=down_ms,
            up_ms=up_ms,
            client_ms=ended[0] - received[0] + 1000 * (answered[1].encode_s + answered[1].queue_s),
            waited_ms=delayed[1].measured_s * 1000,
        )
        trips.setdefault((event.client, event.trial), []).append(trip)
    return trips


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, make_campaign: Callable) -> dict[str, Played]:
    """Play all cases, a campaign for each layer."""
    games = {}
    for layer in LAYERS:
        with make_campaign(tmp_path_factory.mktemp(layer)) as campaign:
            games[layer] = play(layer, campaign)
    return games


def test_the_cables_did_what_they_were_to_do(played: dict[str, Played]) -> None:
    """Otherwise nothing here says anything."""
    for game in played.values():
        for client, both in CABLES.items():
            truth = game.truths[client]
            assert median(truth.up.held_ms) == pytest.approx(both.up.delay_ms, abs=0.4)
            assert median(truth.down.held_ms) == pytest.approx(both.down.delay_ms, abs=0.4)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("client", FAR)
def test_the_natural_network_is_found(played: dict[str, Played], layer: str, client: str) -> None:
    """Both directions and the round trip, as the least of the run's exchanges: what comes on top is the machine's."""
    truth = played[layer].truths[client]
    trips = [trip for trial in range(len(INJECTED_MS)) for trip in played[layer].trips[client, trial]]
    assert len(trips) == ROUNDS * len(INJECTED_MS)
    for true_ms, found_ms in (
        (median(truth.down.held_ms), min(trip.down_ms for trip in trips)),
        (median(truth.up.held_ms), min(trip.up_ms for trip in trips)),
        (truth.rtt_ms, min(trip.network_ms for trip in trips)),
    ):
        assert found_ms == pytest.approx(true_ms, abs=tolerance_ms(true_ms))


@pytest.mark.parametrize(("layer", "client", "trial"), CASES)
def test_the_natural_round_trip_does_not_depend_on_what_is_injected(
    played: dict[str, Played], layer: str, client: str, trial: int
) -> None:
    """In each trial it is longer than on the cable without delay by what the cable holds back."""
    game = played[layer]
    true_ms = game.truths[client].rtt_ms - game.truths["here"].rtt_ms
    far, here = (min(trip.network_ms for trip in game.trips[name, trial]) for name in (client, "here"))
    assert far - here == pytest.approx(true_ms, abs=tolerance_ms(true_ms))


@pytest.mark.parametrize(("layer", "client", "trial"), CASES)
def test_the_injected_delay_is_found(played: dict[str, Played], layer: str, client: str, trial: int) -> None:
    """As its layer says it was.

    And also without its word: what is left of the server's round trip when the client's own time, the network's, and
    the engine's, which is all that the client without a cable's delay needs, are taken off.
    """
    game, true_ms = played[layer], INJECTED_MS[trial]
    trips = game.trips[client, trial]
    assert min(trip.waited_ms for trip in trips) == pytest.approx(true_ms, abs=tolerance_ms(true_ms))
    here = [trip for number in range(len(INJECTED_MS)) for trip in game.trips["here", number]]
    engine_ms = min(trip.whole_ms - trip.client_ms - trip.waited_ms for trip in here)
    left_ms = min(trip.whole_ms - trip.client_ms for trip in trips) - game.truths[client].rtt_ms - engine_ms
    assert left_ms == pytest.approx(true_ms, abs=tolerance_ms(true_ms))
