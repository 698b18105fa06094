"""Links that go down, and packets that vanish without a word, in every part of a round: it goes on where it was.

A server and a client in a network namespace each, one cable in between (Linux, root). All campaigns of this module
run at once: the longest link is down for a minute and a half.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flcommon.events import (
    ClientBack,
    ClientGivenUp,
    ClientLost,
    ComputeEnded,
    ComputeStarted,
    ConnectionBack,
    ConnectionLost,
    Failed,
    Listening,
    Redelivered,
    ReplyMetrics,
    ReplyReceived,
    RoundEnded,
    TrialEnded,
)
from flcommon.job import AppRef, ClientJob, ClientTrial, ServerJob, ServerTrial, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APP = AppRef(client="steady:client", server="steady:server")
APPS = str(Path(__file__).parent / "apps")
ROUNDS = 3
PART_S = 2.0
"""How long each part of a round takes."""
PAYLOAD_BYTES = 4_000_000
RATE_KBIT = round(8 * PAYLOAD_BYTES / PART_S / 1000)
KEEPALIVE = Transport(keepalive_s=1.0, keepalive_timeout_s=2.0, rejoin_timeout_s=150.0)
NOTICED_S = KEEPALIVE.patience_s + 5.0
"""Until when a loss is noticed: keepalive, and time for a busy machine."""
BACK_S = 15.0
"""How long after the link a client is back: its longest pause, an attempt, and time for a busy machine."""
PROGRAMS = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}


def why_not() -> str | None:
    search = f"{os.defpath}:/usr/sbin:/sbin"
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program, path=search) is None]
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    return f"not installed: {', '.join(missing)}" if missing else None


pytestmark = [pytest.mark.skipif(bool(why_not()), reason=str(why_not())), pytest.mark.timeout(400)]


class Cable:
    """Two network namespaces and a veth pair; both are gone with the processes in them, however those end."""

    def __init__(self, stack: ExitStack) -> None:
        self._holders = [self._namespace(stack) for _ in range(2)]
        self._on(0, "ip", "link", "add", "end", "type", "veth", "peer", "name", "end", "netns", self._pid(1))
        for side in (0, 1):
            self._on(side, "ip", "link", "set", "lo", "up")
            self._on(side, "ip", "addr", "add", f"198.18.0.{side + 1}/30", "dev", "end")
            self._on(side, "ip", "link", "set", "end", "up")
            rate = ["rate", f"{RATE_KBIT}kbit", "burst", "16kb", "limit", "64kb"]
            self._on(side, "tc", "qdisc", "add", "dev", "end", "root", "tbf", *rate)

    @staticmethod
    def _namespace(stack: ExitStack) -> subprocess.Popen:
        """Start a process in a network namespace of its own, which ends when this one closes its pipe."""
        argv = ["unshare", "--net", "sh", "-c", "echo here; exec cat"]
        holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stack.callback(holder.wait)
        stack.callback(holder.stdout.close)
        stack.callback(holder.stdin.close)
        assert holder.stdout.readline() == b"here\n"
        return holder

    def _pid(self, side: int) -> str:
        return str(self._holders[side].pid)

    def inside(self, side: int) -> list[str]:
        """Return what to put before a command, to run it on the server's (0) or the client's (1) side."""
        return ["nsenter", "--target", self._pid(side), "--net", "--"]

    def _on(self, side: int, *argv: str) -> str:
        return subprocess.run([*self.inside(side), *argv], check=True, capture_output=True, text=True).stdout

    def carried(self, side: int) -> int:
        """Return how many bytes a side has sent."""
        (link,) = json.loads(self._on(side, "ip", "-stats", "-json", "link", "show", "end"))
        return link["stats64"]["tx"]["bytes"]

    @contextmanager
    def down(self) -> Iterator[None]:
        """Take the link down, as a Wi-Fi that is out of reach."""
        self._on(0, "ip", "link", "set", "end", "down")
        yield
        self._on(0, "ip", "link", "set", "end", "up")

    @contextmanager
    def black_hole(self) -> Iterator[None]:
        """Let all packets vanish without an error on either side: each has a wrong hardware address for the other."""
        for side in (0, 1):
            nowhere = ["lladdr", "02:00:00:00:00:99", "dev", "end", "nud", "permanent"]
            self._on(side, "ip", "neigh", "replace", f"198.18.0.{2 - side}", *nowhere)
        yield
        for side in (0, 1):
            self._on(side, "ip", "neigh", "del", f"198.18.0.{2 - side}", "dev", "end")


@dataclass(frozen=True)
class Case:
    """Which part of round 2 a link fails in, how, and for how long."""

    part: str
    how: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.how}-{self.seconds:g}s-{self.part}"


PARTS = ("down", "compute", "up", "idle")
CASES = [
    *(Case(part, "down", seconds) for seconds in (2.0, 20.0, 90.0) for part in PARTS),
    *(Case(part, "black_hole", 20.0) for part in PARTS),
]
LONG = [case for case in CASES if case.seconds > NOTICED_S]


@dataclass
class Played:
    """What a case has left, and when its link failed and was back, in seconds of the monotonic clock."""

    story: Any
    failed_s: float
    back_s: float


def wait_until(what: Callable[[], bool]) -> None:
    """Wait for what no file tells of."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_part(campaign: Any, cable: Cable, part: str) -> None:
    """Return in the middle of that part of round 2; of a transfer, when a half is through."""

    def second(event: Any) -> bool:
        return event.round == 2

    if part == "idle":
        campaign.wait_for("server", RoundEnded, lambda event: event.round == 1)
        campaign.wait_for("server", ReplyReceived, second)
        return
    if part == "down":
        campaign.wait_for("server", ReplyReceived, lambda event: event.round == 1)
        before = cable.carried(0)
        wait_until(lambda: cable.carried(0) > before + PAYLOAD_BYTES / 2)
        return
    campaign.wait_for("client", ComputeStarted, second)
    if part == "up":
        campaign.wait_for("client", ComputeEnded, second)
        before = cable.carried(1)
        wait_until(lambda: cable.carried(1) > before + PAYLOAD_BYTES / 2)


def play(case: Case, place: Path, make_campaign: Callable) -> Played:
    """Run a campaign of one trial whose link fails once."""
    config = {"rounds": ROUNDS, "payload-bytes": PAYLOAD_BYTES, "compute-s": PART_S, "pause-s": PART_S}
    common = {"campaign": "c1", "app": APP, "transport": KEEPALIVE}
    trial = {"index": 0, "seed": 7, "run_config": config}
    server = ServerJob(
        **common, host="server", listen="198.18.0.1:9000", clients=("client",), trials=(ServerTrial(**trial, rounds=3),)
    )
    client = ClientJob(
        **common,
        host="client",
        server_address="198.18.0.1:9000",
        delay_seed=1,
        node_config={},
        trials=(ClientTrial(**trial, schedule=0),),
    )
    with ExitStack() as stack:
        cable = Cable(stack)
        campaign = stack.enter_context(make_campaign(place))
        campaign.start("flserver", server, cable.inside(0), PYTHONPATH=APPS)
        campaign.wait_for("server", Listening)
        campaign.start("flclient", client, cable.inside(1), PYTHONPATH=APPS)
        wait_for_part(campaign, cable, case.part)
        failed_s = time.monotonic()
        with getattr(cable, case.how)():
            time.sleep(case.seconds)  # the fault itself
        back_s = time.monotonic()
        return Played(campaign.story(120), failed_s, back_s)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, make_campaign: Callable) -> dict[Case, Played]:
    """Play all cases at once."""
    with ThreadPoolExecutor(len(CASES)) as pool:
        playing = {case: pool.submit(play, case, tmp_path_factory.mktemp(f"{case}"), make_campaign) for case in CASES}
        return {case: future.result() for case, future in playing.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_campaign_completes(played: dict[Case, Played], case: Case) -> None:
    """All rounds, with every byte as it was sent; nothing is executed twice, nothing is given up, no state is lost."""
    story = played[case].story
    assert story.statuses == {"server": 0, "client": 0}
    assert [(event.ok, event.rounds) for event in story.events("server", TrialEnded)] == [(True, ROUNDS)]
    assert [event.round for event in story.events("client", ComputeStarted)] == [1, 2, 3]
    assert [event.round for event in story.events("server", ReplyReceived)] == [1, 2, 3]
    assert [event.values["metrics.calls"] for event in story.events("server", ReplyMetrics)] == [1, 2, 3]
    for host in ("server", "client"):
        assert story.events(host, Failed, ClientGivenUp) == []
        assert story.readings[host].problems == []


@pytest.mark.parametrize("case", LONG, ids=str)
def test_the_loss_is_noticed_and_written_down(played: dict[Case, Played], case: Case) -> None:
    """By keepalive, on both sides, within its time; the client is back soon after the link is."""
    game = played[case]
    for host, lost_kind, back_kind in (("server", ClientLost, ClientBack), ("client", ConnectionLost, ConnectionBack)):
        (lost_s, _), *_ = game.story.stamped(host, lost_kind)
        assert game.failed_s <= lost_s <= game.failed_s + NOTICED_S
        *_, (back_s, _) = game.story.stamped(host, back_kind)
        assert game.back_s <= back_s <= game.back_s + BACK_S
    assert not any(event.restarted for event in game.story.events("server", ClientBack))


@pytest.mark.parametrize("case", [case for case in LONG if case.part in {"down", "up"}], ids=str)
def test_a_transfer_goes_on_where_it_was(played: dict[Case, Played], case: Case) -> None:
    """Half of the message was there, and that half is not sent again."""
    told = played[case].story.events("server" if case.part == "down" else "client", Redelivered)
    again = [event for event in told if event.round == 2]
    assert again
    assert again[-1].offset >= PAYLOAD_BYTES / 4
    assert again[-1].size_bytes > PAYLOAD_BYTES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rounds_before_and_after_are_intact(played: dict[Case, Played], case: Case) -> None:
    """The round in which the link failed is longer, by no more than the outage and the way back; the others are not."""
    first, *others = (event.duration_s for event in played[case].story.events("server", RoundEnded))
    # What is idle in round 2 is the link: the next thing it has to carry is the beginning of round 3.
    struck, intact = reversed(others) if case.part == "idle" else others
    assert intact == pytest.approx(first, rel=0.5, abs=1.0)
    assert struck - first <= case.seconds + BACK_S
    if case.seconds > NOTICED_S:
        assert struck - first >= case.seconds - PART_S - 1.0
