"""A whole campaign as hosts run it: one server and two clients, each a process with its job file and nothing else.

All processes are on one host, so their monotonic clocks are one clock (CLOCK_MONOTONIC), and moments can be compared.
"""

from __future__ import annotations

import signal
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from flcommon.delay import Constant, Delay, Draw, Uniform, draw_s
from flcommon.events import (
    CampaignEnded,
    CampaignStarted,
    ClientJoined,
    ClientLeft,
    ComputeEnded,
    Delayed,
    Failed,
    JobAccepted,
    Listening,
    MessageReceived,
    OfMessage,
    Ready,
    ReplyReceived,
    RoundEnded,
    TrialEnded,
    TrialOpened,
    TrialPrepared,
)
from flcommon.job import AppRef, ClientJob, ClientTrial, ServerJob, ServerTrial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LONG_S = 30.0
CLIENTS = ("a", "b")
ROUNDS = 3
DELAYS = (Delay(1.0, Constant(0.05)), Delay(1.0, Uniform(0.02, 0.08)))
"""Of trial 0 and trial 1; each has the schedule of its own number. The warm-up has none."""
ENDLESS = Delay(1.0, Constant(600.0))
APP = AppRef(client="flclient.apps.payload.client_app:app", server="flclient.apps.payload.server_app:app")
SEED = 3


def server_trial(index: int, rounds: int = ROUNDS) -> ServerTrial:
    config = {"num-server-rounds": rounds, "payload-bytes": 10_000}
    return ServerTrial(index=index, seed=7, run_config=config, rounds=rounds)


def client_trial(index: int, delay: Delay | None) -> ClientTrial:
    return ClientTrial(index=index, seed=7, run_config={}, schedule=max(index, 0), delay=delay)


def start_server(campaign: Any, *trials: ServerTrial, warmup: ServerTrial | None = None) -> str:
    """Start the server and return its address, once it listens."""
    common = {"campaign": "c1", "host": "server", "app": APP}
    job = ServerJob(**common, listen="127.0.0.1:0", clients=CLIENTS, trials=trials, warmup=warmup)
    campaign.start("flserver", job)
    return campaign.wait_for("server", Listening).address


def start_client(
    campaign: Any, host: str, address: str, *trials: ClientTrial, warmup: ClientTrial | None = None
) -> None:
    common = {"campaign": "c1", "host": host, "app": APP, "delay_seed": SEED, "node_config": {}}
    campaign.start("flclient", ClientJob(**common, server_address=address, trials=trials, warmup=warmup))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, make_campaign: Callable) -> Callable[..., Any]:
    """Return a function that runs a warm-up and the two trials in this order, once for each order."""
    stories: dict[tuple[int, ...], Any] = {}

    def play(*order: int) -> Any:
        if order not in stories:
            with make_campaign(tmp_path_factory.mktemp("campaign")) as campaign:
                address = start_server(campaign, *map(server_trial, order), warmup=server_trial(-1, rounds=1))
                trials = [client_trial(index, DELAYS[index]) for index in order]
                for host in CLIENTS:
                    start_client(campaign, host, address, *trials, warmup=client_trial(-1, None))
                stories[order] = campaign.story()
        return stories[order]

    return play


@pytest.fixture
def story(played: Callable[..., Any]) -> Any:
    return played(0, 1)


def delays(story: Any) -> dict[tuple[int, int, str], Delayed]:
    """Return what each client waited in each round of each trial."""
    events = [event for host in CLIENTS for event in story.events(host, Delayed)]
    found = {(event.trial, event.round, event.client): event for event in events}
    assert len(found) == len(events)
    return found


# --- a campaign that goes well ----------------------------------------------------------------------------------------


def test_everybody_ends_well_and_nothing_is_lost(story: Any) -> None:
    """Exit status 0 for all; no log has a gap, a torn line or a failure."""
    assert story.statuses == {"server": 0, "a": 0, "b": 0}
    assert all(reading.problems == [] for reading in story.readings.values())
    assert all(story.events(host, Failed) == [] for host in story.readings)


def test_the_first_line_says_who_writes(story: Any) -> None:
    """Role, host and campaign, and the job itself."""
    for host, role in (("server", "server"), ("a", "client"), ("b", "client")):
        first = story.events(host)[0]
        assert isinstance(first, JobAccepted)
        assert (first.role, first.host, first.campaign) == (role, host, "c1")
        assert msgspec.json.decode(first.job)["host"] == host


def test_the_campaigns_frame(story: Any) -> None:
    """Listening, ready, joined, started; in the end the clients leave as expected, after the last trial."""
    kinds = (Listening, Ready, ClientJoined, CampaignStarted, CampaignEnded, ClientLeft)
    told = [type(event) for event in story.events("server", *kinds)]
    assert sorted(told[:4], key=str) == sorted([Listening, Ready, ClientJoined, ClientJoined], key=str)
    assert told[4:] == [CampaignStarted, CampaignEnded, ClientLeft, ClientLeft]
    assert story.events("server", CampaignStarted) == [CampaignStarted(trials=2, clients=2)]
    assert story.events("server", CampaignEnded) == [CampaignEnded(ok=True, trials_done=2)]


@pytest.mark.parametrize("host", ["server", *CLIENTS])
def test_trials_follow_each_other_on_every_host(story: Any, host: str) -> None:
    """Opened, prepared, ended: first the warm-up, then the trials in the job's order, none before the last is over."""
    told = [(event.trial, type(event)) for event in story.events(host, TrialOpened, TrialPrepared, TrialEnded)]
    assert told == [(trial, kind) for trial in (-1, 0, 1) for kind in (TrialOpened, TrialPrepared, TrialEnded)]
    assert [(event.ok, event.rounds) for event in story.events(host, TrialEnded)] == [(True, 1), (True, 3), (True, 3)]


def test_the_story_of_every_message_is_complete_and_in_order(story: Any) -> None:
    """Sent, received, computed, delayed, replied, received: eight events a client and round, and no other."""
    life: dict[tuple[int, int, str], list[tuple[int, str, str]]] = {}
    for reading in story.readings.values():
        for stamp, event in reading.events:
            if isinstance(event, OfMessage):
                what = (stamp.mono_ns, event.__struct_config__.tag, event.message)
                life.setdefault((event.trial, event.round, event.client), []).append(what)
    rounds = [(-1, 1), *((trial, number) for trial in (0, 1) for number in range(1, ROUNDS + 1))]
    assert set(life) == {(*place, client) for place in rounds for client in CLIENTS}
    for (trial, _, _), events in life.items():
        assert len({message for _, _, message in events}) == 1
        on_client = ["message-received", "compute-started", "compute-ended", *["delayed"] * (trial >= 0), "reply-sent"]
        on_server = ["reply-received", "reply-metrics"]
        assert [name for _, name, _ in sorted(events)] == ["message-sent", *on_client, *on_server]


def test_message_ids_are_unique_in_a_campaign(story: Any) -> None:
    """One instruction, one id: 2 clients, 7 rounds."""
    ids = [event.message for host in CLIENTS for event in story.events(host, MessageReceived)]
    assert len(set(ids)) == len(ids) == 14


def test_the_delays_are_those_that_were_drawn(story: Any) -> None:
    """Requested is what seed, client, schedule and round give; the warm-up has no delay."""
    found = delays(story)
    assert set(found) == {(trial, r, client) for trial in (0, 1) for r in range(1, ROUNDS + 1) for client in CLIENTS}
    for (trial, number, client), event in found.items():
        drawn_s = draw_s(DELAYS[trial], Draw(seed=SEED, client=client, schedule=trial, round=number))
        assert event.requested_s == drawn_s
    assert len({event.requested_s for (trial, _, _), event in found.items() if trial == 1}) == 6


def test_a_measured_delay_is_never_shorter_and_hardly_longer_than_drawn(story: Any) -> None:
    """Sleeping may take longer on a busy host, but half of the delays are within 5 ms."""
    excess_s = [event.measured_s - event.requested_s for event in delays(story).values()]
    assert min(excess_s) >= 0
    assert median(excess_s) < 0.005


def test_a_round_holds_its_longest_delay(story: Any) -> None:
    """Rounds are synchronous: each is longer than what its slowest client waited; and they add up to the trial."""
    found = delays(story)
    rounds = {(event.trial, event.round): event.duration_s for event in story.events("server", RoundEnded)}
    for (trial, number, _), event in found.items():
        assert rounds[trial, number] > event.measured_s
    for ended in story.events("server", TrialEnded):
        parts = [duration_s for (trial, _), duration_s in rounds.items() if trial == ended.trial]
        assert sum(parts) == pytest.approx(ended.duration_s, rel=1e-9)


def test_the_order_of_trials_changes_no_delay(played: Callable[..., Any]) -> None:
    """The same trial draws the same delays whether it comes first or last."""
    listed, reverse = played(0, 1), played(1, 0)
    assert [event.trial for event in reverse.events("server", TrialOpened)] == [-1, 1, 0]
    requested = [{key: event.requested_s for key, event in delays(story).items()} for story in (listed, reverse)]
    assert requested[0] == requested[1]


# --- campaigns that do not --------------------------------------------------------------------------------------------


@pytest.fixture
def stuck(campaign: Any) -> Any:
    """Return a campaign in its first round: client b has replied, and client a waits for a delay without end."""
    address = start_server(campaign, server_trial(0))
    start_client(campaign, "a", address, client_trial(0, ENDLESS))
    start_client(campaign, "b", address, client_trial(0, None))
    assert campaign.wait_for("server", ReplyReceived).client == "b"
    assert campaign.wait_for("a", ComputeEnded).client == "a"
    return campaign


def reasons(story: Any, host: str) -> Sequence[tuple[str, str]]:
    return [(event.step, event.reason) for event in story.events(host, Failed)]


def test_sigterm_ends_the_server_and_says_so(stuck: Any) -> None:
    """The trial and the campaign are closed as failed, the exit status is 1, and the clients hear why."""
    stuck.processes["server"].send_signal(signal.SIGTERM)
    assert stuck.processes["server"].wait(LONG_S) == 1
    stuck.processes["a"].send_signal(signal.SIGTERM)  # it sleeps, and cannot listen
    story = stuck.story()
    assert story.statuses == {"server": 1, "a": 1, "b": 1}
    assert reasons(story, "server") == [("run", "stopped from outside")]
    assert reasons(story, "a") == [("run", "stopped from outside")]
    ((step, reason),) = reasons(story, "b")
    assert step == "run"
    assert reason.startswith("the server ended the campaign: ")
    assert story.events("server", CampaignEnded) == [CampaignEnded(ok=False, trials_done=0)]
    assert [event.ok for event in story.events("server", TrialEnded)] == [False]
    assert isinstance(story.events("server")[-1], Failed)
    assert all(reading.problems == [] for reading in story.readings.values())
