"""Processes that die, freeze, double or come back, strangers in a crowd, and clocks that are wrong.

Real processes on loopback. What the link itself can do is in test_links.py.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flcommon.events import (
    CampaignEnded,
    ClientBack,
    ClientGivenUp,
    ClientJoined,
    ClientLost,
    ClockExchange,
    ComputeStarted,
    Failed,
    Listening,
    Redelivered,
    Refused,
    ReplyMetrics,
    ReplyReceived,
    RoundEnded,
    RoundStarted,
    TrialEnded,
)
from flcommon.job import AppRef, ClientJob, ClientTrial, ServerJob, ServerTrial, Tls, Transport

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

APP = AppRef(client="steady:client", server="steady:server")
APPS = Path(__file__).parent / "apps"
CLIENTS = ("a", "b")
ALERT = Transport(keepalive_s=0.5, keepalive_timeout_s=1.0, rejoin_timeout_s=60.0, clock_every_s=0.1)


class Play:
    """A campaign of one trial with two clients, whose app has rounds of known length."""

    def __init__(self, campaign: Any, transport: Transport, **config: float) -> None:
        self.campaign = campaign
        self._transport = transport
        self._config = {"rounds": 3, "payload-bytes": 1000, "compute-s": 0.5, "pause-s": 0.0, **config}
        self.address = ""

    @property
    def _trial(self) -> dict[str, Any]:
        return {"index": 0, "seed": 7, "run_config": self._config}

    def start_server(self, tls: Tls | None = None) -> str:
        job = ServerJob(
            campaign="c1",
            app=APP,
            transport=self._transport,
            tls=tls,
            host="server",
            listen="127.0.0.1:0",
            clients=CLIENTS,
            trials=(ServerTrial(**self._trial, rounds=int(self._config["rounds"])),),
        )
        self.campaign.start("flserver", job, PYTHONPATH=str(APPS))
        self.address = self.campaign.wait_for("server", Listening).address
        return self.address

    def start_client(self, host: str, *, connect_timeout_s: float = 30.0, **environment: str) -> subprocess.Popen:
        job = ClientJob(
            campaign="c1",
            app=APP,
            transport=self._transport,
            host=host,
            server_address=self.address,
            delay_seed=1,
            node_config={},
            trials=(ClientTrial(**self._trial, schedule=0),),
            connect_timeout_s=connect_timeout_s,
        )
        return self.campaign.start("flclient", job, PYTHONPATH=str(APPS), **environment)

    def start(self) -> None:
        self.start_server()
        for host in CLIENTS:
            self.start_client(host)

    def wait_computing(self, host: str, number: int = 2) -> None:
        """Return while a client computes in a round."""
        self.campaign.wait_for(host, ComputeStarted, lambda event: event.round == number)


@pytest.fixture
def play(campaign: Any) -> Callable[..., Play]:
    """Return a function that gives a campaign, with its transport and the app's configuration."""

    def make(transport: Transport = ALERT, **config: float) -> Play:
        return Play(campaign, transport, **config)

    return make


def rounds_of(story: Any, client: str) -> list[int]:
    return [event.round for event in story.events("server", ReplyReceived) if event.client == client]


def ended(story: Any) -> list[tuple[bool, int]]:
    return [(event.ok, event.rounds) for event in story.events("server", TrialEnded)]


def of(story: Any, kind: type, client: str) -> list[Any]:
    return [event for event in story.events("server", kind) if event.client == client]


# --- clients ----------------------------------------------------------------------------------------------------------


def test_a_client_that_is_killed_and_started_again_finishes_the_round(play: Callable) -> None:
    """The new process gets the open trial and the unanswered instruction; state that died with the old one is gone."""
    game = play()
    game.start()
    game.wait_computing("a")
    os.kill(game.campaign.processes["a"].pid, signal.SIGKILL)
    game.campaign.wait_for("server", ClientLost)
    game.start_client("a")
    story = game.campaign.story()
    assert story.statuses == {"server": 0, "a": 0, "b": 0}
    assert ended(story) == [(True, 3)]
    assert rounds_of(story, "a") == rounds_of(story, "b") == [1, 2, 3]
    ((back,), (again, *_)) = of(story, ClientBack, "a"), of(story, Redelivered, "a")
    assert back.restarted
    assert (again.round, again.offset) == (2, 0)
    assert [event.values["metrics.calls"] for event in of(story, ReplyMetrics, "a")] == [1, 1, 2]
    assert [event.values["metrics.calls"] for event in of(story, ReplyMetrics, "b")] == [1, 2, 3]


def test_a_client_that_never_comes_back_is_given_up(play: Callable) -> None:
    """The round goes on after the rejoin time-out with the one that is left, and so do the next ones."""
    game = play(Transport(rejoin_timeout_s=1.0))
    game.start()
    game.wait_computing("a")
    os.kill(game.campaign.processes["a"].pid, signal.SIGKILL)
    story = game.campaign.story()
    assert story.statuses == {"server": 0, "a": -9, "b": 0}
    assert ended(story) == [(True, 3)]
    assert (rounds_of(story, "a"), rounds_of(story, "b")) == ([1], [1, 2, 3])
    (given_up,) = story.events("server", ClientGivenUp)
    assert given_up.client == "a"
    assert given_up.reason.endswith("and it did not come back within 1 s")
    first, second, third = (event.duration_s for event in story.events("server", RoundEnded))
    assert second >= 1.0
    assert third < first + 1.0


def test_without_any_client_the_campaign_ends_and_says_why(play: Callable) -> None:
    """What was measured before is there; the reasons name both."""
    game = play(Transport(rejoin_timeout_s=1.0))
    game.start()
    game.wait_computing("a")
    for host in CLIENTS:
        os.kill(game.campaign.processes[host].pid, signal.SIGKILL)
    story = game.campaign.story()
    assert story.statuses["server"] == 1
    (failed,) = story.events("server", Failed)
    assert failed.reason.startswith("no client is left: ")
    assert all(f"{host}: its connection" in failed.reason for host in CLIENTS)
    assert ended(story) == [(False, 2)]
    assert [event.round for event in story.events("server", RoundEnded)] == [1, 2]


def test_a_client_that_is_frozen_goes_on_when_it_is_thawed(play: Callable) -> None:
    """Keepalive finds it gone, as a laptop that sleeps; its training goes on where it was, once."""
    game = play()
    game.start()
    game.wait_computing("a")
    frozen = game.campaign.processes["a"]
    frozen.send_signal(signal.SIGSTOP)
    try:
        game.campaign.wait_for("server", ClientLost, lambda event: event.client == "a")
    finally:
        frozen.send_signal(signal.SIGCONT)
    story = game.campaign.story()
    assert story.statuses == {"server": 0, "a": 0, "b": 0}
    assert rounds_of(story, "a") == [1, 2, 3]
    assert [event.round for event in story.events("a", ComputeStarted)] == [1, 2, 3]
    assert [event.restarted for event in of(story, ClientBack, "a")][-1:] == [False]
    assert [event.values["metrics.calls"] for event in of(story, ReplyMetrics, "a")] == [1, 2, 3]


def test_a_second_process_of_the_same_name_stays_outside(
    play: Callable, tmp_path: Path, make_campaign: Callable
) -> None:
    """It tries for as long as its job says, then ends with the reason; the first one does not notice."""
    game = play(rounds=6)
    game.start()
    game.campaign.wait_for("server", RoundStarted)
    with make_campaign(tmp_path / "double") as elsewhere:
        (tmp_path / "double").mkdir()
        double = Play(elsewhere, ALERT, rounds=6)
        double.address = game.address
        double.start_client("a", connect_timeout_s=0.5)
        other = elsewhere.story()
    story = game.campaign.story()
    assert other.statuses == {"a": 1}
    (failed,) = other.events("a", Failed)
    assert failed.step == "connect"
    assert "a is connected already" in failed.reason
    assert story.statuses == {"server": 0, "a": 0, "b": 0}
    assert rounds_of(story, "a") == [1, 2, 3, 4, 5, 6]
    assert story.events("server", ClientLost) == []
    assert {event.reason for event in story.events("server", Refused)} == {"a is connected already"}
    assert len(story.events("server", ClientJoined)) == 2


# --- the server -------------------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_leaves_what_it_measured(play: Callable) -> None:
    """Its log holds all that was; the clients try for their time and end with the reason."""
    game = play(Transport(rejoin_timeout_s=0.5))
    game.start()
    game.wait_computing("a")
    os.kill(game.campaign.processes["server"].pid, signal.SIGKILL)
    story = game.campaign.story()
    assert story.statuses == {"server": -9, "a": 1, "b": 1}
    assert [event.round for event in story.events("server", RoundEnded)] == [1]
    assert story.events("server", CampaignEnded) == []
    for host in CLIENTS:
        (failed,) = story.events(host, Failed)
        assert failed.reason.startswith(f"no answer from the server at {game.address} within 1 s (")
        assert [event.round for event in story.events(host, ComputeStarted)] == [1, 2]
        assert story.readings[host].problems == []


@pytest.mark.parametrize("word", [b"", b"\x00" * 64], ids=["silent", "garbage"])
def test_500_strangers_do_not_keep_clients_out(play: Callable, word: bytes) -> None:
    """Connections that say nothing, or nonsense, while the campaign begins and runs; none of them gets further."""
    game = play()
    game.start_server()
    host, _, port = game.address.rpartition(":")
    with ExitStack() as stack:
        for _ in range(500):
            stranger = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            stranger.sendall(word)
        for name in CLIENTS:
            game.start_client(name)
        story = game.campaign.story()
    assert story.statuses == {"server": 0, "a": 0, "b": 0}
    assert rounds_of(story, "a") == rounds_of(story, "b") == [1, 2, 3]
    assert len(story.events("server", ClientJoined)) == 2


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_wrong_and_jumps_harms_nothing(play: Callable, clock: Path, tmp_path: Path) -> None:
    """3.5 s ahead from the start, another 2 s in the middle: durations are right, and exchanges tell the offset.

    Server and client share the kernel's monotonic clock here, so the truth about their order is known.
    """
    jump = tmp_path / "jump"
    game = play(rounds=4)
    game.start_server()
    game.start_client("b")
    shift = {"CLOCK_OFFSET_S": "3.5", "CLOCK_JUMP_S": "2", "CLOCK_JUMP_FILE": str(jump)}
    game.start_client("a", LD_PRELOAD=str(clock), **shift)
    game.wait_computing("a")
    jumped_ns = time.monotonic_ns()
    jump.touch()
    story = game.campaign.story()
    assert story.statuses == {"server": 0, "a": 0, "b": 0}
    assert ended(story) == [(True, 4)]
    durations = [event.duration_s for event in story.events("server", RoundEnded)]
    assert all(0.5 <= duration < 2.0 for duration in durations), "neither the offset nor the jump is in them"
    for client, before_s, after_s in (("a", 3.5, 5.5), ("b", 0.0, 0.0)):
        offsets = [
            ((event.client_received_wall_ns - event.server_sent_wall_ns) / 1e9, event.client_received_mono_ns)
            for _, event in story.stamped("server", ClockExchange)
            if event.client == client
        ]
        early = [offset for offset, at_ns in offsets if at_ns < jumped_ns]
        late = [offset for offset, at_ns in offsets if at_ns > jumped_ns + 1e8]
        assert min(early) == pytest.approx(before_s, abs=0.02)
        assert min(late) == pytest.approx(after_s, abs=0.02)
        for stamp, event in story.stamped("server", ClockExchange):
            if event.client == client:
                moments = [event.server_sent_mono_ns, event.client_received_mono_ns, event.client_sent_mono_ns]
                assert moments == sorted(moments)
                assert moments[-1] <= stamp * 1e9 + 1000


def test_clocks_are_compared_while_the_client_computes(play: Callable) -> None:
    """The stream is idle then; a dozen exchanges in a second and a half of computing, none of them late."""
    game = play(**{"rounds": 1, "compute-s": 1.5})
    game.start()
    story = game.campaign.story()
    idle = [event for event in story.events("server", ClockExchange) if event.message is None and event.client == "a"]
    assert len(idle) >= 6
    trips = [event.client_sent_mono_ns - event.client_received_mono_ns for event in idle]
    assert sorted(trips)[len(trips) // 2] < 50e6
