"""Which of many errors is the cause, what the watch makes of the lines that hosts send, and whom it starts again."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from queue import SimpleQueue

import msgspec
import pytest

from deploy.errors import CampaignError, CommandFailed, ConnectionLost, HostError
from deploy.remote.fake import FakeRemote
from deploy.watch import CampaignWatch
from deploy.watched import Watched
from deploy.worker import Worker
from flcommon import events
from flcommon.process import MOST_STARTS, Exit

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


# --- once the campaign runs -------------------------------------------------------------------------------------------


@dataclass
class Script:
    """A host whose commands do, one after the other, what the test says: lines, errors, or waits for an event."""

    host: str
    acts: SimpleQueue = field(default_factory=SimpleQueue)
    asked: list[str] = field(default_factory=list)
    argv: tuple[str, ...] = ()

    def run(self, argv, *, step, stdin=b"", on_line=None):  # noqa: ARG002 - the protocol's signature
        self.argv = tuple(argv)
        self.asked.append(argv[argv.index("flcommon.commands") + 1])
        while True:
            act = self.acts.get(timeout=10)
            if isinstance(act, Exception):
                raise act
            if isinstance(act, threading.Event):
                assert act.wait(10)
            else:
                on_line(act if isinstance(act, str) else line(act).strip())
            if isinstance(act, str):
                return ""

    def read(self, argv, *, step, stdin=b""):  # noqa: ARG002 - the protocol's signature
        self.asked.append(argv[0])
        return ""

    def play(self, *acts):
        for act in acts:
            self.acts.put(act)


STARTED = events.CampaignStarted(trials=1, clients=2)
DONE = '{"status":0}'
KILLED = '{"status":-9}'
FAILED = '{"status":1}'


@dataclass
class Stage:
    """A server and two clients whose campaign runs, and what the watch says of it."""

    facts: object
    notes: list[str] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)
    noted: SimpleQueue = field(default_factory=SimpleQueue)

    def __post_init__(self):
        self.hosts = {name: Script(name) for name in ("server", "a", "b")}
        self.watch = CampaignWatch(
            lambda *_: None,
            on_note=self.note,
            on_host=lambda *told: self.states.append(told),
            pauses_s=(0.0, 0.0, 0.0),
            aftermath_s=0.2,
        )
        self.reaction = lambda _text: None

    def note(self, text):
        self.notes.append(text)
        self.reaction(text)

    def run(self, **acts):
        """Play each host's acts to the end of the campaign; the clients' begin once the campaign runs."""
        self.hosts["server"].play(STARTED, *acts.pop("server"))
        for name, script in self.hosts.items():
            self.watch.follow(Worker(script, self.facts(), f"fl{script.host}", "/code", "c"), ("ready", "failed"))
            if name == "server":
                self.watch.until(events.CampaignStarted)
        for name, played in acts.items():
            self.hosts[name].play(*played)
        try:
            self.watch.until_ended()
        finally:
            self.watch.join()


@pytest.fixture
def stage(facts):
    return Stage(facts)


def held(stage, word):
    """Return an event that is set by the first note with a word: what an act waits for."""
    event = threading.Event()
    before = stage.reaction

    def react(text):
        before(text)
        if word in text:
            event.set()

    stage.reaction = react
    return event


def failure(reason, step="run"):
    return events.Failed(step=step, reason=reason)


@pytest.mark.parametrize(
    ("last", "how"),
    [
        pytest.param((KILLED,), "the process was killed by SIGKILL", id="out of memory"),
        pytest.param(('{"status":null}',), "the process is gone and left no exit status", id="power failure"),
        pytest.param((failure("stopped from outside"), FAILED), "run: stopped from outside", id="reboot"),
        pytest.param(
            (failure("no answer from the server at x:1 within 60 s", "connect"), FAILED),
            "connect: no answer",
            id="network",
        ),
    ],
)
def test_a_client_that_was_ended_from_outside_is_started_again(stage, last, how):
    """It is noted once, with when and how; the campaign ends as its server does, and nobody is missing."""
    over = held(stage, "starting it again")
    stage.run(
        server=(events.RoundStarted(trial=0, round=3), over, DONE),
        a=(*last, events.Ready(after_s=1, app_import_s=1), DONE),
        b=(DONE,),
    )
    (note,) = stage.notes
    assert note.startswith(f"a: {how}")
    assert note.endswith("(trial 0, round 3); starting it again in 0 s")
    assert stage.watch.missing() == {}


def test_it_is_started_by_the_verb_for_it_and_goes_on_where_it_was(stage):
    """`again`, with the number of the last event that came; then it is watched like any other."""
    ready, twice = events.Ready(after_s=1, app_import_s=1), threading.Event()
    stage.reaction = lambda _text: twice.set()
    stage.run(server=(twice, DONE), a=(ready, KILLED, ready, DONE), b=(DONE,))
    assert stage.hosts["a"].asked == ["watch", "again"]
    assert stage.hosts["a"].argv[-4:] == ("fla", "0", "ready", "failed")
    assert stage.hosts["b"].asked == ["watch"]


def test_a_crash_loop_ends(stage):
    """Three times, then the campaign goes on without it, and the manifest will say so."""
    over = held(stage, "goes on without it")
    stage.run(server=(over, DONE), a=[KILLED] * 4, b=(DONE,))
    assert stage.hosts["a"].asked == ["watch", "again", "again", "again"]
    assert [note.count("starting it again") for note in stage.notes] == [1, 1, 1, 0]
    assert "it was started again 3 times" in stage.notes[-1]
    assert stage.watch.missing() == {"a": "the process was killed by SIGKILL"}


def test_the_pauses_before_a_start_grow():
    """So that what is broken for a minute has a minute."""
    pauses_s = CampaignWatch(lambda *_: None).pauses_s
    assert len(pauses_s) == MOST_STARTS - 1
    assert list(pauses_s) == sorted(set(pauses_s))


@pytest.mark.parametrize(
    "last",
    [
        pytest.param((failure("a:app: cannot be imported: No module named x"), FAILED), id="app"),
        pytest.param((failure("refused: it is not in this campaign", "connect"), FAILED), id="refused"),
        pytest.param((failure("No space left on device"), FAILED), id="disk"),
        pytest.param((FAILED,), id="without a word"),
    ],
)
def test_a_client_that_ended_by_itself_is_not_started_again(stage, last):
    """It would do so again: its own words are noted, and the campaign goes on."""
    over = held(stage, "goes on without it")
    stage.run(server=(over, DONE), a=last, b=(DONE,))
    assert stage.hosts["a"].asked == ["watch"]
    assert len(stage.notes) == 1
    assert list(stage.watch.missing()) == ["a"]


def test_a_host_that_refuses_to_start_it_says_why(stage):
    """Somebody has stopped it there: one line, and no further try."""
    over = held(stage, "goes on without it")
    refused = CommandFailed("a", "start", ["env"], status=1, output="it was stopped\n")
    stage.run(server=(over, DONE), a=(KILLED, refused), b=(DONE,))
    assert stage.notes[-1] == "a: start: it was stopped; the campaign goes on without it"
    assert stage.hosts["a"].asked == ["watch", "again"]


def test_a_host_out_of_reach_is_looked_for_as_long_as_the_campaign_runs(stage):
    """Beyond the patience for the server's; it is noted when it goes and when it is back, and is then watched on."""
    stage.watch.patience_s = 0.0
    back, ready = held(stage, "in reach again"), threading.Event()
    stage.watch.on_event = lambda _host, event: ready.set() if isinstance(event, events.Ready) else None
    stage.run(
        server=(back, ready, DONE),
        a=(ConnectionLost("a", "watch", "the connection was lost"), events.Ready(after_s=1, app_import_s=1), DONE),
        b=(DONE,),
    )
    assert [note.partition(" (")[0] for note in stage.notes] == [
        "a: watch: the connection was lost; trying again",
        "a: watch: in reach again after 1 s",
    ]
    assert stage.hosts["a"].asked == ["watch", "true", "watch"]
    assert [host for host, _ in stage.states] == ["a", "a"]


def test_a_start_whose_connection_breaks_is_asked_for_once_more(stage):
    """Nobody knows whether it has arrived; on the host, a second wish does nothing while the process lives."""
    ready = threading.Event()
    stage.watch.on_event = lambda _host, event: ready.set() if isinstance(event, events.Ready) else None
    lost = ConnectionLost("a", "start", "the connection was lost")
    stage.run(server=(ready, DONE), a=(KILLED, lost, events.Ready(after_s=1, app_import_s=1), DONE), b=(DONE,))
    assert stage.hosts["a"].asked == ["watch", "again", "true", "again"]


def test_a_server_out_of_reach_for_too_long_is_an_error(stage):
    """As before: without it nobody knows what becomes of the campaign."""
    stage.watch.patience_s = 0.0
    with pytest.raises(HostError, match=r"^server: watch: the connection was lost"):
        stage.run(server=(ConnectionLost("server", "watch", "the connection was lost"),), a=(DONE,), b=(DONE,))


def test_when_all_clients_are_gone_for_good_nobody_waits(stage):
    """The server would wait for its rejoin time-out; the cause is the first client's."""
    never = threading.Event()
    with pytest.raises(CampaignError, match=r"^a: run: No space left on device$"):
        stage.run(
            server=(never, DONE),
            a=(failure("No space left on device"), FAILED),
            b=(failure("the app is broken"), FAILED),
        )
    never.set()


def test_a_start_that_is_refused_brings_nobody_back(stage):
    """A client whose host would not start it again is as gone as it was: with the last one, nobody waits."""
    never = threading.Event()
    refused = CommandFailed("a", "start", ["env"], status=1, output="No space left on device\n")
    late = held(stage, "a: start: No space left")
    with pytest.raises(CampaignError, match=r"^a: run: the process was killed by SIGKILL"):
        stage.run(server=(never, DONE), a=(KILLED, refused), b=(late, failure("No space left on device"), FAILED))
    never.set()


def test_clients_that_end_just_before_their_server_are_no_failure(stage):
    """A server that says goodbye ends a moment after its clients."""
    stage.watch.aftermath_s = 10.0
    both = threading.Event()
    stage.reaction = lambda _text: both.set() if len(stage.notes) == 2 else None
    stage.run(server=(both, DONE), a=(failure("no room"), FAILED), b=(failure("no room"), FAILED))
    assert list(stage.watch.missing()) == ["a", "b"]


def test_a_server_that_fails_says_without_whom(stage):
    """The error is the server's, with when it was; who was missing stands behind it."""
    gone = held(stage, "goes on without it")
    with pytest.raises(CampaignError) as caught:
        stage.run(
            server=(events.RoundStarted(trial=1, round=2), gone, failure("too few clients"), FAILED),
            a=(failure("the card is full"), FAILED),
            b=(failure("the server ended the campaign: too few clients"), FAILED),
        )
    assert str(caught.value) == "server: run: too few clients (trial 1, round 2); without a (run: the card is full)"


def test_what_the_server_says_of_a_client_is_why_it_is_missing(stage):
    """Its process may live: lost and given up are the server's words, until the client is back."""
    lost = [events.ClientLost(client=name, reason="it fell silent") for name in ("a", "b")]
    back = events.ClientBack(client="b", peer="x", after_s=1.0, restarted=False)
    given_up = events.ClientGivenUp(client="a", reason="not back within 120 s")
    stage.run(server=(*lost, back, given_up, DONE), a=(DONE,), b=(DONE,))
    assert stage.watch.missing() == {"a": "given up: not back within 120 s"}


def test_a_campaign_that_is_over_starts_nobody_again(stage):
    """A client that dies after its server has ended, or whose pause lasts longer than the campaign."""
    stage.watch.pauses_s = (0.3,)
    over = held(stage, "starting it again")
    stage.run(server=(over, DONE), a=(KILLED,), b=(DONE,))
    assert stage.hosts["a"].asked == ["watch"]
    assert not stage.watch.has_ended("a")


def test_hosts_that_are_away_are_not_asked_for_their_logs(stage):
    """A pause holds the experiment: nobody waits in it for a host that is off."""
    pauses = []
    stage.watch.on_pause = lambda pause, away: pauses.append((pause.number, set(away)))
    away = held(stage, "trying again")
    stage.hosts["a"].read = _unreachable
    stage.run(
        server=(events.Paused(trial=0, round=1, number=1), away, events.Paused(trial=0, round=2, number=2), DONE),
        a=(ConnectionLost("a", "watch", "the connection was lost"),),
        b=(DONE,),
    )
    assert pauses == [(1, set()), (2, {"a"})]


def _unreachable(_argv, *, step, stdin=b""):  # noqa: ARG001 - the protocol's signature
    raise HostError("a", "connect", "no answer")
