"""The conversation with every host of a campaign: what is written down, the last word, and what a failure does."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.json import decode

from deploy import clocks
from deploy.attach import attach
from deploy.clockline import CLOCKS_FILE, ClockLine
from deploy.errors import CommandFailed, ConnectionLost, HostError
from flcommon import events
from flcommon.job import Shaping

ALL = {"server", "client-1", "client-2"}


def exchanges(lab):
    assert lab.view.directory is not None
    return [decode(line, type=ClockLine) for line in (lab.view.directory / CLOCKS_FILE).read_bytes().splitlines()]


def said(lab, host):
    """Return all that was said to a host, by conversation."""
    return [call.stdin for call in lab.stations[host].did("converse")]


def test_every_exchange_with_every_host_is_written_down(lab):
    """The host's stamps as it told them, between ours; at least a whole burst, however short the campaign is."""
    lab.up()
    for host in ALL:
        own = [line for line in exchanges(lab) if line.host == host]
        assert len(own) >= 20
        for line in own:
            there = (line.received_mono_ns, line.received_wall_ns, line.answered_mono_ns, line.answered_wall_ns)
            assert there == (1, 2, 3, 4)
            assert line.sent_mono_ns <= line.back_mono_ns
            assert line.sent_wall_ns <= line.back_wall_ns
    assert all(b"leave" not in word for host in ALL for word in said(lab, host))
    assert lab.view.notes == []


def test_who_leaves_a_campaign_says_so(lab, script):
    """The last word of `up --detach` to every host, before it returns."""
    for station in lab.stations.values():
        station.lasting = True
    lab.tell("server", "run", script.said(*script.opening[:2]))
    lab.up(detach=True)
    assert all(word.endswith(b"\nleave\n") for host in ALL for word in said(lab, host))


@pytest.fixture
def left(lab, script, digest):
    """Give a lab on which a campaign was left running, whose server runs until it is stopped."""
    for station in lab.stations.values():
        station.lasting = True
    lab.tell("server", "run", script.said(*script.opening[:2]))
    lab.up(detach=True)
    name = lab.manifest.campaign
    for host, station in lab.stations.items():
        station.closed = False
        station.over.clear()
        station.calls.clear()
        running = (f"/home/pi/.fieldlab/campaigns/{name}/{host}",)
        lab.tell(host, "look", script.facts(code=(digest,), running=running))
        lab.tell(host, "watch", script.said(*(script.opening if host == "server" else ())))
    lab.tell("server", "manifest", (lab.view.directory / "manifest.json").read_bytes())
    return lab


def test_an_interrupted_attach_leaves_it_again(left):
    """Ctrl-C: all hosts are told, and exchanges stand behind those of the controller before."""
    before = exchanges(left)
    left.view.interrupt_at = events.RoundStarted
    with pytest.raises(KeyboardInterrupt):
        attach(left.place, left.view)
    assert all(word.endswith(b"\nleave\n") for host in ALL for word in said(left, host))
    assert exchanges(left)[: len(before)] == before
    assert len(exchanges(left)) >= len(before) + 3 * 20


def test_a_campaign_that_is_stopped_is_not_left(lab, script):
    """Ctrl-C in `up`: what was shaped goes off with its process, and nobody is told otherwise."""
    for host, station in lab.stations.items():
        station.lasting = True
        lab.tell(host, "run", script.said(*(script.opening if host == "server" else ())))
    lab.view.interrupt_at = events.RoundStarted
    with pytest.raises(KeyboardInterrupt):
        lab.up()
    assert all(b"leave" not in word for host in ALL for word in said(lab, host))


def test_a_host_that_refuses_to_talk_is_noted_once(lab):
    """And changes nothing else: the campaign is complete, the other hosts' clocks are known."""
    lab.tell("client-1", "converse", CommandFailed("client-1", "clocks", ["env"], status=1, output="no\nroom\n"))
    lab.up()
    assert lab.manifest.status == "complete"
    assert lab.view.notes == ["client-1: clocks: room; its clock is not compared over SSH until it answers"]
    assert {line.host for line in exchanges(lab)} == ALL - {"client-1"}


def test_an_answer_that_makes_no_sense_is_noted_once(lab):
    """A host with other code than ours."""
    lab.tell("client-2", "converse", lambda _word: "what?")
    lab.up()
    (note,) = lab.view.notes
    assert note.startswith("client-2: clocks: an answer that cannot be understood: 'what?'")
    assert {line.host for line in exchanges(lab)} == ALL - {"client-2"}


def test_a_conversation_that_was_lost_is_taken_up_again(lab, script, monkeypatch):
    """Quietly: that a host is out of reach is the watch's to say. The campaign runs until its clock is known again."""
    monkeypatch.setattr(clocks, "_FIRST_WAIT_S", 0.01)
    station = lab.stations["client-1"]
    talk = next(answer for key, answer in station.answers.items() if key(("flcommon.commands", "converse")))
    tries = []

    def lose(word):
        tries.append(word)
        if len(tries) in (1, 2, 12):
            raise ConnectionLost("client-1", "clocks", "the connection was lost")
        if len(tries) > 25:
            lab.stations["server"].over.set()
        return talk(word)

    lab.tell("client-1", "converse", lose)
    lab.stations["server"].lasting = True
    lab.tell("server", "run", script.said(*script.opening))
    with pytest.raises(HostError, match="SIGTERM"):
        lab.up()
    assert len(said(lab, "client-1")) == 4
    assert len([line for line in exchanges(lab) if line.host == "client-1"]) >= 22
    assert not any("clocks" in note for note in lab.view.notes)


def test_a_book_that_cannot_be_written_is_given_up(tmp_path):
    """A full disk at the controller: noted once, and nobody is disturbed."""
    notes = []
    book = clocks.Book(tmp_path / "nowhere" / CLOCKS_FILE, notes.append)
    line = ClockLine(host="pi", **dict.fromkeys(ClockLine.__struct_fields__[1:], 0))
    book.add(line)
    book.add(line)
    book.close()
    told = "cannot be written, and holds no clocks from here on: No such file or directory"
    assert notes == [f"{tmp_path}/nowhere/{CLOCKS_FILE}: {told}"]


def test_a_book_that_is_full_is_given_up(tmp_path):
    """The same, once something has been written."""
    notes = []
    (tmp_path / CLOCKS_FILE).symlink_to("/dev/full")
    book = clocks.Book(tmp_path / CLOCKS_FILE, notes.append)
    line = ClockLine(host="pi", **dict.fromkeys(ClockLine.__struct_fields__[1:], 0))
    book.add(line)
    book.add(line)
    (note,) = notes
    assert note.endswith("No space left on device")


def test_a_shaped_host_that_cannot_be_told_is_named(left):
    """Its link goes off although the campaign goes on: only kernel links do, so only those hosts are named."""
    manifest = msgspec.structs.replace(
        left.manifest, shaping={"client-1": Shaping(layer="kernel"), "client-2": Shaping(layer="relay")}
    )
    left.tell("server", "manifest", msgspec.json.encode(manifest))
    for host in ("client-1", "client-2"):
        left.tell(host, "converse", HostError(host, "clocks", "no more sessions"))
    left.view.interrupt_at = events.RoundStarted
    with pytest.raises(KeyboardInterrupt):
        attach(left.place, left.view)
    (untold,) = [note for note in left.view.notes if "not told" in note]
    assert untold == (
        "client-1: clocks: not told that the campaign is left running: its link is taken off after 45 s without a"
        " controller, until one attaches"
    )
