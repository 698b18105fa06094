"""What hosts write of themselves and of their connections: beside each message, at ticks, and true."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flwr.clientapp import ClientApp

from flclient.session import take_part
from flcommon.delay import Constant, Delay
from flcommon.eventlog import EventLog, now, read_log
from flcommon.events import (
    ComputeStarted,
    ConnectionBack,
    HostSampled,
    Listening,
    MessageReceived,
    MessageSent,
    ReplyReceived,
    ReplySent,
    TcpSampled,
)
from flcommon.job import AppRef, ClientJob, ClientTrial, ServerJob, ServerTrial, Transport
from flcommon.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TCP_INFO by /proc/self/fd needs Linux")

LONG_S = 20.0
CLIENTS = ("a", "b")
PAYLOAD_BYTES = 200_000
APP = AppRef(client="flclient.apps.payload.client_app:app", server="flclient.apps.payload.server_app:app")
EVERY_S, DELAY_S = 0.02, 0.1
"""Each round has time for some ticks."""


def jobs(address: str = "") -> tuple[ServerJob, list[ClientJob]]:
    """Return the jobs of a server and two clients: one trial of three rounds."""
    common = {"campaign": "c1", "app": APP, "sample_every_s": EVERY_S}
    trial = {"index": 0, "seed": 7, "run_config": {"num-server-rounds": 3, "payload-bytes": PAYLOAD_BYTES}}
    server = ServerJob(
        **common, host="server", listen="127.0.0.1:0", clients=CLIENTS, trials=(ServerTrial(**trial, rounds=3),)
    )
    share = {
        "delay_seed": 1,
        "node_config": {},
        "trials": (ClientTrial(**trial, schedule=0, delay=Delay(1.0, Constant(DELAY_S))),),
    }
    return server, [ClientJob(**common, host=host, server_address=address, **share) for host in CLIENTS]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, make_campaign: Callable) -> Any:
    with make_campaign(tmp_path_factory.mktemp("sampled")) as campaign:
        campaign.start("flserver", jobs()[0])
        for client in jobs(campaign.wait_for("server", Listening).address)[1]:
            campaign.start("flclient", client)
        return campaign.story()


# --- a campaign on loopback -------------------------------------------------------------------------------------------


def moments(story: Any, host: str, *kinds: type) -> dict[tuple[str, str], tuple[int, Any]]:
    """Return a host's events of these kinds with their moments in ns, by client and message."""
    found = [(stamp.mono_ns, event) for stamp, event in story.readings[host].events if isinstance(event, kinds)]
    return {(event.client, event.message): (mono_ns, event) for mono_ns, event in found}


@pytest.mark.parametrize("host", ["server", *CLIENTS])
def test_each_message_has_a_sample_beside_it_in_each_direction(story: Any, host: str) -> None:
    """Taken after it had gone, or had come: what had come by then is in its counters."""
    taken: dict[tuple[str, str], list[tuple[int, TcpSampled]]] = {}
    for stamp, event in story.readings[host].events:
        if isinstance(event, TcpSampled) and event.message is not None:
            taken.setdefault((event.client, event.message), []).append((stamp.mono_ns, event))
    sent, received = (MessageSent, ReplyReceived) if host == "server" else (ReplySent, MessageReceived)
    gone, come = moments(story, host, sent), moments(story, host, received)
    assert len(gone) == len(come) >= 3
    assert gone.keys() == come.keys() == taken.keys()
    arrived: Counter[str] = Counter()
    for key, samples in taken.items():
        arrived[key[0]] += come[key][1].wire_bytes
        assert len(samples) == 2
        latest_ns, latest = max(samples, key=lambda sample: sample[0])
        assert latest_ns >= max(gone[key][0], come[key][0])
        assert latest.tcp.received_bytes >= arrived[key[0]]
        assert not latest.relay


def test_samples_count_what_went_by(story: Any) -> None:
    """By the end a client's kernel has taken in all of the messages' bytes, and little more."""
    for host in CLIENTS:
        *_, last = story.events(host, TcpSampled)
        said = sum(event.wire_bytes for event in story.events(host, MessageReceived))
        assert said <= last.tcp.received_bytes <= 1.05 * said + 10_000
        assert 0 < last.tcp.rtt_min_ms <= last.tcp.rtt_ms < 100
        assert last.tcp.retransmitted == 0


@pytest.mark.parametrize("host", ["server", *CLIENTS])
def test_the_machine_is_looked_at_in_step(story: Any, host: str) -> None:
    """From the first tick on: not more often than asked for, also when one was late."""
    at_ns = [stamp.mono_ns for stamp, event in story.readings[host].events if isinstance(event, HostSampled)]
    assert len(at_ns) >= 2
    steps = [(one - at_ns[0]) / 1e9 / EVERY_S for one in at_ns]
    assert all(step >= place - 0.9 for place, step in enumerate(steps))
    sample = story.events(host, HostSampled)[-1]
    assert sample.memory_free_mb > 0
    assert sample.load_1min is not None


def test_ticks_look_at_connections_too(story: Any) -> None:
    """Of every client on the server, of itself on a client, beside no message."""
    told = Counter(event.client for event in story.events("server", TcpSampled) if event.message is None)
    assert set(told) == set(CLIENTS)
    for host in CLIENTS:
        assert {event.client for event in story.events(host, TcpSampled)} == {host}
        assert any(event.message is None for event in story.events(host, TcpSampled))


# --- connections that come and go -------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LONG_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_client_that_connects_anew_is_sampled_anew(make_lab: Callable, tmp_path: Path) -> None:
    """Each connection has counters of its own; after many of them no descriptor is left on either side."""
    lab = make_lab("a", transport=Transport(keepalive_s=60.0, rejoin_timeout_s=60.0, clock_every_s=0.0))
    roster = lab.grid.roster
    server = Sampler(60.0, lab.log, ("a",), roster.address_of)
    log = EventLog(tmp_path / "client.jsonl")
    job = ClientJob(
        campaign="c1", host="a", app=APP, server_address=lab.address, delay_seed=1, node_config={}, trials=(),
        sample_every_s=EVERY_S,
    )  # fmt: skip
    client = lab.call(take_part, job, ClientApp(), log)

    def back(times: int) -> bool:
        events = [event for _, event in read_log(log.path).events if isinstance(event, ConnectionBack | TcpSampled)]
        places = [place for place, event in enumerate(events) if isinstance(event, ConnectionBack)]
        return len(places) == times and len(events) > times and isinstance(events[-1], TcpSampled)

    until(lambda: back(0))
    before, peers = descriptors(), set()
    for times in range(1, 9):
        place = {"trial": 0, "round": 1, "message": f"{times}", "client": "a", "kind": "train"}
        server.beside(ComputeStarted(**place), now())
        peers.add(roster.address_of("a"))
        roster._peers["a"].line.context.cancel()
        until(lambda times=times: back(times))
        until(lambda: roster.address_of("a"))
    assert len(peers) == 8
    until(lambda: descriptors() <= before)
    sampled = lab.events(TcpSampled)
    assert [event.message for event in sampled] == [f"{times}" for times in range(1, 9)]
    assert max(event.tcp.received_bytes for event in sampled) < 10_000
    lab.grid.streams.close()
    client.result(LONG_S)
    log.close()


# --- the kernel's word against what is known --------------------------------------------------------------------------

PROGRAMS = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "unshare": "util-linux"}


def why_not() -> str | None:
    search = f"{os.defpath}:/usr/sbin:/sbin"
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program, path=search) is None]
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    return f"not installed: {', '.join(missing)}" if missing else None


@pytest.fixture(scope="module")
def carried() -> dict[str, Any]:
    """Return what a slow loopback has carried, and what the kernel says of it."""
    if reason := why_not():
        pytest.skip(reason)
    argv = ["unshare", "--net", sys.executable, Path(__file__).parent / "apps" / "carry.py"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_packet_that_was_dropped_was_sent_again(carried: dict[str, Any]) -> None:
    """As many as the firewall has thrown away, and none where it has thrown away none."""
    lossy = carried["lossy"]
    assert lossy["dropped"] > 10
    assert lossy["dropped"] <= lossy["tcp"]["retransmitted"] <= 1.5 * lossy["dropped"] + 5
    again = lossy["tcp"]["sent_bytes"] - 2_000_000
    assert again == pytest.approx(lossy["tcp"]["retransmitted"] * lossy["tcp"]["segment_bytes"], rel=0.05)
    assert carried["plain"]["tcp"]["retransmitted"] == 0


def test_the_time_in_which_data_was_there_is_busy(carried: dict[str, Any]) -> None:
    """A transfer is that from its beginning to its end; the kernel counts in steps of 4 ms."""
    for case in ("lossy", "plain", "small buffer"):
        assert carried[case]["tcp"]["busy_s"] == pytest.approx(carried[case]["seconds"], rel=0.1, abs=0.02)


def test_what_holds_a_transfer_up_is_told_apart(carried: dict[str, Any]) -> None:
    """A reader that is slow, or a buffer of the sender that is small: each for a good part of the time."""
    reader, buffer = carried["slow reader"]["tcp"], carried["small buffer"]["tcp"]
    assert reader["window_limited_s"] > 0.2 * reader["busy_s"]
    assert reader["buffer_limited_s"] == 0
    assert buffer["buffer_limited_s"] > 0.2 * buffer["busy_s"]
    assert buffer["window_limited_s"] == 0


def test_the_rate_is_that_of_the_link(carried: dict[str, Any]) -> None:
    """Of 1514 bytes on the wire 1448 are data."""
    assert carried["plain"]["tcp"]["delivery_rate_mbit"] == pytest.approx(20 * 1448 / 1514, rel=0.15)


def test_round_trips_are_those_of_the_application(carried: dict[str, Any]) -> None:
    """On a link that is idle, and behind another's queue, which only the smoothed one shows."""
    idle, busy = carried["idle"], carried["busy"]
    assert idle["tcp"]["rtt_min_ms"] <= idle["least_ms"] + 0.05
    assert busy["late_ms"] > 4 * idle["late_ms"]
    assert busy["tcp"]["rtt_ms"] == pytest.approx(busy["late_ms"], rel=0.6)
    assert busy["tcp"]["rtt_ms"] > 4 * idle["tcp"]["rtt_ms"]
