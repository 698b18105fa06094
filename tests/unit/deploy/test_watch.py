"""Which of many errors is the cause, and what the watch makes of the lines that hosts send."""

from __future__ import annotations

import msgspec
import pytest

from deploy.errors import CampaignError, CommandFailed, HostError
from deploy.remote.fake import FakeRemote
from deploy.watch import CampaignWatch, Watched
from deploy.worker import Worker
from flcommon import events
from flcommon.process import Exit

LOST = HostError("client-2", "watch", "the connection was lost")
GONE = "client-2 is gone: connection reset"
ECHO = "the server ended the campaign: " + GONE


def told(reason, step="run"):
    """Return a process that said why it failed."""
    return Watched(failed=events.Failed(step=step, reason=reason), exit=Exit(1))


def silent(status):
    """Return a process that ended without a word."""
    return Watched(exit=Exit(status))


FINE = Watched(exit=Exit(0))
RUNS = Watched()


@pytest.mark.parametrize(
    ("server", "client_1", "client_2", "cause"),
    [
        pytest.param(told(GONE), told(ECHO), silent(-9), "client-2: run: the process was killed by SIGKILL", id="kill"),
        pytest.param(silent(-9), told("the server is gone"), RUNS, "server: run: .*SIGKILL", id="the server is killed"),
        pytest.param(told(GONE), silent(-9), told("the card is full"), "client-1: run: .*SIGKILL", id="kill first"),
        pytest.param(told(GONE), told(ECHO), told("no data", "load"), "client-2: load: no data", id="the client's own"),
        pytest.param(told(GONE), told("one"), told("two"), "client-1: run: one", id="the inventory's order"),
        pytest.param(told("no", "listen"), told(ECHO), told(ECHO), "server: listen: no", id="no echoes"),
        pytest.param(told(GONE), told(ECHO), Watched(lost=LOST), f"server: run: {GONE}", id="the server knows more"),
        pytest.param(RUNS, told(ECHO), Watched(lost=LOST), "client-2: watch: .*lost", id="a lost host beats echoes"),
        pytest.param(FINE, FINE, Watched(lost=LOST), "client-2: watch: the connection was lost", id="lost"),
        pytest.param(RUNS, told(ECHO), RUNS, f"client-1: run: {ECHO}", id="an echo is better than nothing"),
        pytest.param(FINE, FINE, silent(3), "client-2: run: the process ended with status 3", id="status"),
        pytest.param(FINE, silent(None), FINE, "client-1: run: the process is gone and left no exit", id="unseen"),
    ],
)
def test_the_cause(server, client_1, client_2, cause):
    """A process killed without a word; else a client's own words; the server's; a lost host; at last an echo."""
    watch = CampaignWatch(lambda _host, _event: None, {"server": server, "client-1": client_1, "client-2": client_2})
    with pytest.raises(HostError, match=f"^{cause}"):
        raise watch._cause()


def test_only_a_process_that_was_seen_to_end_has_ended():
    """A lost connection says nothing of the process at its end, nor does a host that nobody has watched."""
    watch = CampaignWatch(lambda _host, _event: None, {"a": FINE, "b": silent(-9), "c": Watched(lost=LOST), "d": RUNS})
    assert [host for host in "abcde" if watch.has_ended(host)] == ["a", "b"]


def line(event):
    return '{"v":1,"seq":0,"mono_ns":0,"wall_ns":0,' + msgspec.json.encode(event).decode()[1:] + "\n"


def followed(facts, answer, *, host="server"):
    """Return a watch of one process, and what its `on_event` gets."""
    seen = []
    watch = CampaignWatch(lambda *event: seen.append(event))
    remote = FakeRemote(host, {(): answer})
    watch.follow(Worker(remote, facts(), "flserver", "/code", "c"), ("ready", "failed"))
    return watch, seen, remote


def test_events_reach_the_caller_in_their_order(facts):
    """Each event once, with its host; the last line is no event."""
    story = [
        events.TrialOpened(trial=0),
        events.RoundStarted(trial=0, round=1),
        events.Ready(after_s=1, app_import_s=1),
    ]
    watch, seen, remote = followed(facts, "".join(map(line, story)) + '{"status":0}\n')
    watch.until_ended()
    watch.join()
    assert seen == [("server", event) for event in story]
    assert remote.calls[0].argv[-5:] == ("watch", "/home/pi/.fieldlab/campaigns/c/server", "-1", "ready", "failed")


def test_until_returns_at_its_event_and_leaves_the_rest(facts):
    """What comes after the awaited event is for who waits next."""
    story = [events.Listening(address="[::]:7"), events.CampaignStarted(trials=1, clients=1)]
    watch, seen, _ = followed(facts, "".join(map(line, story)) + '{"status":0}\n')
    assert watch.until(events.Listening) == story[0]
    assert len(seen) == 1
    watch.until_ended()
    assert len(seen) == 2


def test_a_failure_says_when_it_was(facts):
    """The trial and round that the server began last stand behind the reason."""
    story = [events.RoundStarted(trial=2, round=5), events.Failed(step="run", reason="no room")]
    watch, _, _ = followed(facts, "".join(map(line, story)) + '{"status":1}\n')
    with pytest.raises(CampaignError, match=r"^server: run: no room \(trial 2, round 5\)$"):
        watch.until_ended()


def test_a_process_that_ends_before_the_awaited_event_is_an_error(facts):
    """Nobody waits for a server that is gone."""
    watch, _, _ = followed(facts, '{"status":-11}\n')
    with pytest.raises(CampaignError, match=r"^server: run: the process was killed by SIGSEGV$"):
        watch.until(events.Listening)


def test_a_watch_command_that_fails_is_raised_as_it_is(facts):
    """The remote command's own failure holds its argv and output."""
    failure = CommandFailed("server", "watch", ["env"], status=255, output="")
    watch, _, _ = followed(facts, failure)
    with pytest.raises(CommandFailed) as caught:
        watch.until_ended()
    assert caught.value is failure


def test_a_talkative_campaign_does_not_hold_up_the_error():
    """The others are heard out once, not for as long as they have something to say."""
    talk = line(events.RoundEnded(trial=0, round=1, duration_s=0.1)).strip()
    watch = CampaignWatch(lambda *_: watch._lines.put(("server", talk)), {"server": Watched(), "client-2": Watched()})
    watch.aftermath_s = 0.1
    watch._lines.put(("client-2", LOST))
    watch._lines.put(("server", talk))
    with pytest.raises(HostError, match=r"^client-2: watch: the connection was lost"):
        watch.until_ended()
