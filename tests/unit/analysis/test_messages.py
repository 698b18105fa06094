"""Messages of small logs written by hand: what the network took, what was injected, what is flagged or unknown."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.analysis.clocks.injected import PAYLOAD
from deploy.analysis.columns import MESSAGES
from deploy.analysis.export.spans import spans
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.reading.messages import BELOW, CHANGED, LIFTED, LOSSY, RESENT, WINDOW, MessageRow, message_rows
from deploy.analysis.report import write_report
from deploy.analysis.statistics.interval import interval
from deploy.clockline import CLOCKS_FILE, ClockLine
from flcommon.eventlog import EventLog, Moment
from flcommon.events import (
    ClientBack,
    ClientJoined,
    ClockExchange,
    Delayed,
    Event,
    JobAccepted,
    LinkLifted,
    LinkProved,
    LinkReady,
    LinkRestored,
    LinkSet,
    LinkUsed,
    MessageReceived,
    MessageSent,
    Probed,
    ReplyReceived,
    ReplySent,
    RoundStarted,
    Tcp,
    TcpSampled,
)
from flcommon.link import Link, Step, Steps, Way

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from deploy.analysis.reading.rows import Dataset

NS = 1_000_000_000
UP_40 = Way(delay_ms=40.0)
DAY_NS = 1_700_000_000 * NS


@dataclass(frozen=True)
class Net:
    """The truth: seconds in each direction without and with what is injected, and where the client's clocks stand."""

    down_s: float = 0.005
    up_s: float = 0.007
    more_down_s: float = 0.0
    more_up_s: float = 0.0
    client_zero_s: float = 1000.0
    client_wall_s: float = 3.5
    set_at_s: float = 1e9
    set_by_s: float = 0.0


def job(host: str) -> JobAccepted:
    role = "server" if host == "server" else "client"
    return JobAccepted(role=role, host=host, campaign="c-1", pid=7, versions={}, job=msgspec.Raw(b"{}"))


@dataclass
class Story:
    """A run with one client, told second by second of the server's clock; `write` gives the directory."""

    place: Path
    kit: ModuleType
    net: Net = field(default_factory=Net)
    link: Link | None = None
    control_every: int = 0
    server: list[tuple[float, Event]] = field(default_factory=list)
    client: list[tuple[float, Event]] = field(default_factory=list)
    ssh: list[ClockLine] = field(default_factory=list)
    before: Net | None = None
    told_before: int = 0

    def idle(self, at_s: float) -> None:
        """One comparison of clocks by the stream, as long as what is injected lets it take."""
        there_s = at_s + self.net.down_s + self.net.more_down_s
        back_s = there_s + self.net.up_s + self.net.more_up_s
        self.server.append((back_s, self.exchange(at_s, there_s)))

    def exchange(self, sent_s: float, there_s: float) -> ClockExchange:
        here = self.client_ns(there_s)
        return ClockExchange(
            client="a",
            server_sent_mono_ns=round(sent_s * NS),
            server_sent_wall_ns=round(sent_s * NS) + DAY_NS,
            client_received_mono_ns=here,
            client_received_wall_ns=self.client_wall_ns(here),
            client_sent_mono_ns=here,
            client_sent_wall_ns=self.client_wall_ns(here),
        )

    def client_ns(self, at_s: float) -> int:
        return round((at_s + self.net.client_zero_s) * NS)

    def client_wall_ns(self, mono_ns: int) -> int:
        net = self.net
        ahead_s = net.client_wall_s + (net.set_by_s if mono_ns >= self.client_ns(net.set_at_s) else 0.0)
        return mono_ns + DAY_NS + round((ahead_s - net.client_zero_s) * NS)

    def round(self, number: int, at_s: float, *, control: bool = False, size: int = 1000) -> str:
        """One message there and back, with a second of work in between."""
        message = f"0-{number}"
        place: dict[str, Any] = {"trial": 0, "round": number, "message": message, "client": "a", "kind": "train"}
        size_of = {"size_bytes": size, "wire_bytes": size}
        out = {"encode_s": 0.0, "queue_s": 0.0, "send_s": 0.0}
        here_s = at_s + self.net.down_s + self.net.more_down_s
        gone_s = here_s + 1.0
        back_s = gone_s + self.net.up_s + self.net.more_up_s
        self.server += [
            (at_s, RoundStarted(trial=0, round=number, control=control)),
            (at_s, MessageSent(**place, **size_of, **out)),
            (back_s, ReplyReceived(**place, **size_of, receive_s=0.0, decode_s=0.0)),
        ]
        self.client += [
            (here_s, MessageReceived(**place, **size_of, receive_s=0.0, queue_s=0.0, decode_s=0.0)),
            (gone_s - 0.001, Delayed(**place, requested_s=0.5, measured_s=0.5)),
            (gone_s, ReplySent(**place, **size_of, **out)),
        ]
        return message

    def set_link(self, at_s: float, up: Way | None, down: Way | None = None, layer: str = "relay") -> None:
        event = LinkSet(trial=0, round=0, client="a", layer=layer, state="", up=up, down=down)  # type: ignore[arg-type]
        self.client.append((at_s, event))

    def write(self) -> Path:
        fake = self.kit.FakeRun(self.place, [], clients=("a",))
        links = {"a": self.link} if self.link else {}
        manifest = msgspec.structs.replace(
            fake.manifest, trials=(self.kit.plan(0, links=links, control_every=self.control_every),)
        )
        (self.place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        with ExitStack() as stack:
            self._log(stack, "server", self.server)
            self._log(stack, "a", self.client)
        if self.ssh:
            lines = [msgspec.json.encode(line) + b"\n" for line in self.ssh]
            (self.place / CLOCKS_FILE).write_bytes(b"".join(lines))
        return self.place

    def _log(self, stack: ExitStack, host: str, events: list[tuple[float, Event]]) -> None:
        folder = self.place / "raw" / host
        folder.mkdir(parents=True)
        log = EventLog(folder / "events.jsonl")
        stack.callback(log.close)
        last = self.net
        for place, (at_s, event) in enumerate([(0.0, job(host)), *events]):
            if host == "a":
                self.net = self.before if self.before and place <= self.told_before else last
            mono_ns = round(at_s * NS) if host == "server" else self.client_ns(at_s)
            log.write(event, Moment(mono_ns, mono_ns + DAY_NS if host == "server" else self.client_wall_ns(mono_ns)))

    def reboot(self, at_s: float, zero_s: float) -> None:
        """The client's machine begins anew, with a monotonic clock that does so too."""
        self.before, self.told_before = self.net, len(self.client)
        self.net = replace(self.net, client_zero_s=zero_s)
        self.server.append((at_s, ClientBack(client="a", peer="x", after_s=5.0, restarted=True)))
        self.client.append((at_s, job("a")))

    def read(self) -> Dataset:
        return read_dataset(self.write())


@pytest.fixture
def story(tmp_path: Path, kit: ModuleType) -> Story:
    """A client that has joined and whose clocks were compared for eight seconds, with nothing injected."""
    made = Story(tmp_path, kit)
    made.server.append((0.5, ClientJoined(client="a", node_id=1, peer="x")))
    for number in range(40):
        made.idle(1.0 + number / 5)
    return made


def by_way(dataset: Dataset, number: int = 1) -> tuple[MessageRow, MessageRow]:
    """Return a round's rows: down and up."""
    down, up = (row for row in message_rows(dataset.messages) if row.round == number)
    assert (down.direction, up.direction) == ("down", "up")
    return down, up


def shaped(story: Story, up: Way = UP_40, until_s: float = 9.0, **more: Any) -> Story:
    """From second 3 on, this is injected into the way up; clocks are compared until some time."""
    story.link = Link(course=Steps(steps=(Step(up=up),)))
    story.set_link(3.0, up, **more)
    story.net = replace(story.net, more_up_s=up.delay_ms / 1000)
    late = [sent_ns for _, event in story.server if (sent_ns := sent_of(event)) > 2.9 * NS]
    story.server = [(at_s, event) for at_s, event in story.server if sent_of(event) not in late]
    for sent_ns in late:
        if sent_ns / NS < until_s:
            story.idle(sent_ns / NS)
    return story


def sent_of(event: Event) -> int:
    return event.server_sent_mono_ns if isinstance(event, ClockExchange) else 0


def test_times_one_way_are_right_within_their_uncertainty(story: Story) -> None:
    """5 ms down, 7 ms up: no exchange can tell 5 and 7 from 6 and 6, so 6 ms of doubt; what needs no clock is exact."""
    story.round(1, 4.0)
    dataset = story.read()
    down, up = by_way(dataset)
    assert dataset.problems == ()
    for row, true_s in ((down, 0.005), (up, 0.007)):
        assert row.transfer_s == pytest.approx(0.006, abs=1e-4)
        assert row.uncertainty_s == pytest.approx(0.006, abs=2e-4)
        assert abs((row.transfer_s or 0) - true_s) <= (row.uncertainty_s or 0)
        assert (row.round_trip_s, row.client_s) == pytest.approx((1.012, 1.0))
        assert row.network_s == pytest.approx(0.012)
        assert (row.injected_s, row.layer, row.size_bytes) == (0.0, None, 1000)
    assert (down.app_delay_s, up.app_delay_s) == (None, 0.5)
    assert down.sent_ns == 4 * NS
    assert up.received_ns == round(5.012 * NS)
    (clock,) = dataset.clocks
    assert (clock.source, clock.grpc_exchanges, clock.steps) == ("gRPC", 40, ())
    assert clock.wall_offset_s == pytest.approx((3.499, 3.499), abs=1e-4)


@pytest.mark.parametrize("delay_ms", [5.0, 20.0, 100.0])
@pytest.mark.parametrize("layer", ["relay", "kernel"])
def test_natural_and_injected_are_told_apart(story: Story, delay_ms: float, layer: str) -> None:
    """Both within max(1 ms, 5 %) of the truth, in each direction, by messages and by idle exchanges."""
    story.net = Net(0.006, 0.006)
    story.server.clear()
    for number in range(10):
        story.idle(1.0 + number / 10)
    shaped(story, Way(delay_ms=delay_ms), layer=layer)
    for number in range(1, 9):
        story.round(number, 4.0 + 2 * number)
        story.idle(5.5 + 2 * number)
    dataset = story.read()
    (row,) = dataset.network.rows
    assert row.layer == layer
    for way, injected_ms in ((row.down, None), (row.up, delay_ms)):
        assert way.natural_ms is not None
        assert way.natural_ms.median == pytest.approx(6.0, abs=1.0)
        assert way.applied_ms == injected_ms
    assert row.natural_rtt_ms is not None
    assert row.natural_rtt_ms.median == pytest.approx(12.0, abs=0.01)
    assert all(line.injected_s == delay_ms / 1000 for line in message_rows(dataset.messages) if line.direction == "up")


def test_what_the_layer_held_counts_rather_than_what_it_was_asked(story: Story) -> None:
    shaped(story)
    message = story.round(1, 4.0)
    place: dict[str, Any] = {"trial": 0, "round": 1, "message": message, "client": "a", "kind": "train"}
    used = LinkUsed(**place, layer="relay", up=True, held_mean_ms=41.25, overflowed=0)
    story.client.append((5.1, used))
    _, up = by_way(story.read())
    assert (up.requested_ms, up.applied_ms, up.held_ms) == (40.0, 40.0, 41.25)
    assert up.injected_s == pytest.approx(0.04125)
    assert up.natural_s == pytest.approx((up.transfer_s or 0) - 0.04125)


def test_a_rate_is_injected_as_the_time_it_takes_for_the_payload(story: Story) -> None:
    """10 Mbit/s carry 9.56: a megabyte takes 0.836 s, on top of the delay."""
    shaped(story, Way(delay_ms=40.0, rate_mbit=10.0), layer="relay")
    story.round(1, 4.0, size=1_000_000)
    _, up = by_way(story.read())
    assert up.serialisation_s == pytest.approx(8 / 10 * 1514 / 1448)
    assert up.injected_s == pytest.approx(0.04 + (up.serialisation_s or 0))
    assert pytest.approx(0.9564, abs=1e-4) == PAYLOAD


def test_control_rounds_stand_apart_and_nothing_is_injected_into_them(story: Story) -> None:
    story.control_every = 2
    shaped(story, until_s=5.8)
    story.round(1, 4.0)
    story.set_link(5.9, None)
    story.net = replace(story.net, more_up_s=0.0)
    story.round(2, 6.0, control=True)
    dataset = story.read()
    injected, control = dataset.network.rows
    assert (injected.control, control.control) == (False, True)
    assert (injected.up.applied_ms, control.up.applied_ms) == (40.0, None)
    assert (injected.layer, control.layer) == ("relay", None)
    assert by_way(dataset, 2)[1].injected_s == 0.0
    assert by_way(dataset, 2)[1].control
    for row in (injected, control):
        assert row.up.natural_ms is not None
        assert row.up.natural_ms.median == pytest.approx(6.0, abs=0.3)


def test_ssh_exchanges_bound_a_clock_that_the_stream_cannot(story: Story) -> None:
    """40 ms up during the whole run leave 26 ms of doubt; exchanges of 2 ms with both hosts leave two."""
    story.server.clear()
    story.net = replace(story.net, more_up_s=0.04)  # by somebody else: nothing of it is in the log
    for number in range(40):
        story.idle(1.0 + number / 10)
        for host, zero_s in (("server", 0.0), ("a", story.net.client_zero_s)):
            story.ssh.append(ssh_line(story, host, zero_s, 1.0 + number / 10))
    story.round(1, 4.0)
    dataset = story.read()
    (clock,) = dataset.clocks
    assert (clock.source, clock.ssh_exchanges) == ("SSH", 40)
    down, up = by_way(dataset)
    for row, true_s in ((down, 0.005), (up, 0.047)):
        assert row.uncertainty_s == pytest.approx(0.002, abs=2e-4)
        assert abs((row.transfer_s or 0) - true_s) <= (row.uncertainty_s or 0)


def ssh_line(story: Story, host: str, zero_s: float, at_s: float, wrong_s: float = 0.0) -> ClockLine:
    """Compare a host's clocks with those of a controller, which began 77 s before the server, by 1 ms each way."""
    here_ns = round((at_s + 0.001 + zero_s + wrong_s) * NS)
    wall_ns = story.client_wall_ns(here_ns) if zero_s else here_ns + DAY_NS
    sent_ns, back_ns = (round((at_s + 77.0 + more_s) * NS) for more_s in (0.0, 0.002))
    return ClockLine(
        host=host,
        sent_mono_ns=sent_ns,
        sent_wall_ns=sent_ns + DAY_NS,
        received_mono_ns=here_ns,
        received_wall_ns=wall_ns,
        answered_mono_ns=here_ns,
        answered_wall_ns=wall_ns,
        back_mono_ns=back_ns,
        back_wall_ns=back_ns + DAY_NS,
    )


def test_ssh_exchanges_that_contradict_the_stream_are_said_and_not_used(story: Story) -> None:
    """As where a process sees other clocks than its host."""
    for number in range(40):
        at_s = 1.0 + number / 20
        story.ssh += [ssh_line(story, "server", 0.0, at_s), ssh_line(story, "a", story.net.client_zero_s, at_s, 0.5)]
    story.round(1, 4.0)
    dataset = story.read()
    assert dataset.problems == ("a: its clock exchanges over SSH contradict those over gRPC; the latter are used",)
    assert dataset.clocks[0].source == "gRPC"
    assert by_way(dataset)[0].transfer_s == pytest.approx(0.006, abs=1e-4)


def test_lines_of_clocks_that_cannot_be_used_are_counted(story: Story) -> None:
    story.write()
    (story.place / CLOCKS_FILE).write_bytes(b'{"host":"a"}\n\xff\xfe\n{"torn')
    assert read_dataset(story.place).problems == ("clocks.jsonl: 3 of 3 lines cannot be used",)


def flags(dataset: Dataset) -> tuple[str, ...]:
    return by_way(dataset)[1].flags


def test_what_is_longer_than_the_window_is_not_separated(story: Story) -> None:
    """A delay in the kernel counts once a window: 248 kB take several round trips, whatever the network does."""
    shaped(story, layer="kernel")
    story.round(1, 4.0, size=248_024)
    dataset = story.read()
    assert flags(dataset) == (WINDOW,)
    (row,) = dataset.network.rows
    assert row.up.natural_ms is None
    assert row.up.transfer_ms is not None
    assert row.flagged[WINDOW] == 1
    assert dataset.problems == ()


def test_injected_loss_is_not_separated(story: Story) -> None:
    shaped(story, Way(delay_ms=40.0, loss_pct=1.0))
    story.round(1, 4.0)
    assert flags(story.read()) == (LOSSY,)


def test_a_link_that_changes_on_the_way_is_flagged(story: Story) -> None:
    shaped(story, until_s=4.9)
    story.set_link(5.02, Way(delay_ms=80.0))
    story.round(1, 4.0)
    dataset = story.read()
    assert flags(dataset) == (CHANGED,)
    assert by_way(dataset)[0].flags == (BELOW,) or by_way(dataset)[0].flags == ()
    assert dataset.problems == ("a: 1 of 2 one-way times are not used: link changed",)


def test_a_link_that_was_taken_off_is_flagged_and_said(story: Story) -> None:
    shaped(story)
    story.round(1, 4.0)
    story.client.append((4.5, LinkLifted(client="a", reason="no word of a controller for 45 s")))
    story.client.append((8.0, LinkRestored(client="a", after_s=3.5)))
    dataset = story.read()
    assert flags(dataset) == (LIFTED,)
    assert dataset.problems == (
        "a: the injected link was taken off: no word of a controller for 45 s",
        "a: 1 of 2 one-way times are not used: link lifted",
    )


def test_what_went_out_twice_is_flagged(story: Story) -> None:
    """The time is from the last time that it was sent."""
    message = story.round(1, 4.0)
    (again,) = (event for _, event in story.client if isinstance(event, ReplySent) and event.message == message)
    story.client.append((5.006, again))
    dataset = story.read()
    assert RESENT in flags(dataset)
    assert dataset.network.rows[0].up.transfer_ms is None


def test_a_time_below_its_uncertainty_is_flagged_and_counted(story: Story) -> None:
    story.net = replace(story.net, down_s=0.004, up_s=0.01)
    story.round(1, 4.0)
    dataset = story.read()
    down, _ = by_way(dataset)
    assert down.transfer_s == pytest.approx(0.005, abs=1e-4)
    assert down.flags == (BELOW,)
    assert dataset.network.rows[0].flagged == {BELOW: 1}


def test_without_exchanges_there_is_no_time_one_way_but_the_round_trip(story: Story) -> None:
    story.server.clear()
    story.round(1, 4.0)
    dataset = story.read()
    assert dataset.problems == ("a: no exchange tells of its clock: one-way times are not known",)
    for row in by_way(dataset):
        assert (row.transfer_s, row.natural_s, row.uncertainty_s) == (None, None, None)
        assert row.network_s == pytest.approx(0.012)


def test_without_the_clients_log_the_server_tells_what_it_knows(story: Story) -> None:
    story.round(1, 4.0)
    run = story.write()
    (run / "raw" / "a" / "events.jsonl").unlink()
    down, up = by_way(read_dataset(run))
    assert (down.round_trip_s, down.client_s, down.network_s) == (pytest.approx(1.012), None, None)
    assert (down.size_bytes, up.size_bytes, up.transfer_s, up.injected_s) == (1000, 1000, None, None)


def test_a_planned_link_of_which_the_log_says_nothing_is_not_taken_for_none(story: Story) -> None:
    shaped(story)
    story.client.clear()
    story.round(1, 4.0)
    _, up = by_way(story.read())
    assert up.transfer_s is not None
    assert (up.injected_s, up.natural_s) == (None, None)


def test_each_process_of_a_client_has_its_own_clock(story: Story) -> None:
    """After a reboot the monotonic clock begins anew: 20 s of it are 1000 s of the one before."""
    story.round(1, 4.0)
    story.reboot(20.0, zero_s=20.0)
    for number in range(20):
        story.idle(21.0 + number / 4)
    story.round(2, 24.0)
    dataset = story.read()
    assert [clock.process for clock in dataset.clocks] == [0, 1]
    for number in (1, 2):
        for row in by_way(dataset, number):
            assert row.transfer_s == pytest.approx(0.006, abs=1e-4)
    assert dataset.problems == (
        "server: client a was back after 5.0 s, in a new process",
        "a: its process was started again",
    )


def test_a_step_of_the_time_of_day_is_said_and_moves_nothing(story: Story) -> None:
    """Two seconds forward before the round: times of messages are by the monotonic clock."""
    story.server.clear()
    story.net = replace(story.net, set_at_s=3.5, set_by_s=2.0)
    for number in range(40):
        story.idle(1.0 + number / 5)
    story.round(1, 4.0)
    dataset = story.read()
    (problem,) = dataset.problems
    assert problem.startswith("a: its time of day was set forward by 2.000 s at 20")
    ((step,),) = (clock.steps for clock in dataset.clocks)
    assert (step.of, step.size_s) == ("wall", pytest.approx(2.0))
    assert dataset.clocks[0].wall_offset_s == pytest.approx((3.5, 5.5), abs=0.006)
    assert by_way(dataset)[0].transfer_s == pytest.approx(0.006, abs=1e-4)


def test_the_kernels_word_stands_beside(story: Story) -> None:
    """Retransmissions are counted from the sample before; the relay's connection is what leads to the network."""
    message = story.round(1, 4.0)
    for at_s, beside, count in ((2.0, None, 3), (5.0, message, 8)):
        tcp = Tcp(retransmitted=count, rtt_ms=12.5, rtt_min_ms=11.0)
        story.client.append((at_s, TcpSampled(client="a", tcp=tcp, message=beside, relay=True)))
        story.client.append((at_s, TcpSampled(client="a", tcp=Tcp(retransmitted=0), message=beside)))
    dataset = story.read()
    down, up = by_way(dataset)
    assert (up.retransmitted, up.rtt_ms, up.rtt_min_ms) == (5, 12.5, 11.0)
    assert (down.retransmitted, down.rtt_ms) == (None, None)
    assert dataset.network.rows[0].up.retransmitted == 5


def test_proofs_probes_and_lost_packets_are_summed_up(story: Story) -> None:
    shaped(story)
    message = story.round(1, 4.0)
    proof = LinkProved(
        trial=0, client="a", layer="relay", requested_up_ms=40.0, measured_up_ms=40.3,
        requested_down_ms=0.0, measured_down_ms=0.1, tolerance_ms=2.0, attempts=1,
    )  # fmt: skip
    probe = Probed(client="a", stage="before", rtt_ms=(12.0, 13.0, 12.5), size_bytes=1000, up_mbit=90.0, down_mbit=95.0)
    place: dict[str, Any] = {"trial": 0, "round": 1, "message": message, "client": "a", "kind": "train"}
    story.client += [
        (2.5, LinkReady(client="a", layer="relay", about={"window": "4 MiB"})),
        (2.6, probe),
        (3.1, proof),
        (5.5, LinkUsed(**place, layer="relay", up=True, overflowed=7)),
    ]
    dataset = story.read()
    (row,) = dataset.network.rows
    assert (row.up.requested_ms, row.up.measured_ms, row.up.overflowed) == (40.0, 40.3, 7)
    (client,) = dataset.network.clients
    assert client.about == {"window": "4 MiB"}
    assert (client.probes[0].rtt_min_ms, client.probes[0].up_mbit) == (12.0, 90.0)
    assert dataset.problems == ("a: 7 packets were lost because a queue of the injected link was full",)


def test_the_table_of_messages(story: Story) -> None:
    """A row for each, with the types of the contract also where nothing is known."""
    story.round(1, 4.0)
    table = story.read().messages
    assert dict(table.schema) == {name: kind() for name, kind in MESSAGES.schema.items()}
    assert table.columns == [each.name for each in msgspec.structs.fields(MessageRow)]
    assert table.select("direction", "client", "round").rows() == [("down", "a", 1), ("up", "a", 1)]


def test_a_message_is_a_chain_of_spans(story: Story) -> None:
    """One after the other on the server's clock, each as sure as the clock is that it was read from."""
    story.round(1, 4.0)
    rows = spans(story.read()).filter(pl.col("message").is_not_null()).sort("start_s", "duration_s").collect()
    told = {row["span"]: row for row in rows.iter_rows(named=True)}
    starts = {"server-encode": 4.0, "downlink": 4.0, "client-queue": 4.006, "delay": 4.505, "uplink": 5.006}
    for span, start_s in starts.items():
        assert told[span]["start_s"] == pytest.approx(start_s, abs=1e-3), span
        assert told[span]["host"] == ("server" if span == "server-encode" else "a")
    assert (told["delay"]["duration_s"], told["uplink"]["size_bytes"]) == (0.5, 1000)
    assert told["downlink"]["uncertainty_s"] == pytest.approx(0.006, abs=2e-4)
    assert told["server-decode"]["uncertainty_s"] == 0
    assert told["server-decode"]["start_s"] == pytest.approx(told["uplink"]["start_s"] + told["uplink"]["duration_s"])


def test_the_page_tells_natural_from_injected(story: Story) -> None:
    """With the clock's uncertainty, and a bound alone where a time is smaller than that."""
    shaped(story)
    story.round(1, 4.0)
    html = write_report(story.write()).page.read_text()
    said = re.sub(r"<[^>]*>|\s+", " ", html.replace("\N{NO-BREAK SPACE}", " "))
    assert "By itself the network takes 12.0 ms (a) there and back" in said
    assert "\N{LESS-THAN OR EQUAL TO} 1" in said
    assert re.search(r" a +12\.0 .* relay ", said)
    assert "40.0 / 40.0 / \N{EN DASH}" in said


def test_a_page_without_links_has_a_row_for_each_client_and_no_word_of_injection(story: Story) -> None:
    story.round(1, 4.0)
    html = write_report(story.write()).page.read_text()
    assert '<h2 id="network-title">' in html
    assert "injected down" not in html


def test_a_page_of_logs_that_tell_nothing_of_the_network_does_without(story: Story) -> None:
    story.server.clear()
    assert '<h2 id="network-title">' not in write_report(story.write()).page.read_text()


# --- the median's interval --------------------------------------------------------------------------------------------


def test_too_few_values_have_no_interval() -> None:
    assert interval([]) is None
    assert interval([3.0, 1.0, 2.0]) == interval([1.0, 2.0, 3.0])
    few = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert few is not None
    assert (few.median, few.low, few.high) == (3.0, None, None)


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (10, 2), (20, 6), (100, 40), (1000, 469), (1001, 469)])
def test_the_intervals_ranks_are_those_of_the_tables(n: int, rank: int) -> None:
    """Of the sign test, two-sided, 5 %."""
    found = interval(range(1, n + 1))
    assert found is not None
    assert (found.low, found.high) == (rank, n + 1 - rank)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_the_median_is_within_its_interval(values: list[float]) -> None:
    found = interval(values)
    assert found is not None
    if found.low is not None and found.high is not None:
        assert found.low <= found.median <= found.high
