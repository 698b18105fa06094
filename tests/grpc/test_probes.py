"""The natural path is looked at before and after, and control rounds are left alone: real streams, real sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flclient.apps.payload import client_app, server_app
from flcommon import wire
from flcommon.delay import Constant, Delay
from flcommon.events import (
    ClockExchange,
    Delayed,
    MessageSent,
    Probed,
    Resumed,
    RoundEnded,
    RoundStarted,
    Switched,
    TrialEnded,
)
from flcommon.job import AppRef, ClientTrial, ServerJob, ServerTrial
from flserver.campaign import run_trials
from flserver.errors import ServerError
from flserver.grid import PROBE_BYTES

if TYPE_CHECKING:
    from concurrent.futures import Future

LONG_S = 20.0
DELAY_S = 0.05


def server_job(*trials: ServerTrial, probe: bool = False) -> ServerJob:
    app = AppRef(client="not.used:app", server="not.used:app")
    clients = ("a", "b")
    return ServerJob(
        campaign="c1", host="server", app=app, listen="127.0.0.1:0", clients=clients, trials=trials, probe=probe
    )


def server_trial(rounds: int, control_every: int = 0, payload_bytes: int = 1000) -> ServerTrial:
    config = {"num-server-rounds": rounds, "payload-bytes": payload_bytes}
    return ServerTrial(index=0, seed=7, run_config=config, rounds=rounds, control_every=control_every)


def client_trial(control_every: int = 0, delay: Delay | None = None) -> ClientTrial:
    return ClientTrial(index=0, seed=7, run_config={}, schedule=0, control_every=control_every, delay=delay)


def run(lab: Any, job: ServerJob, trial: ClientTrial) -> None:
    """Run the job's trials with two sessions to the end."""
    told: list[Future] = [lab.session(name, client_app.app, lab.log, trial) for name in ("a", "b")]
    lab.grid.roster.wait_joined(LONG_S)
    run_trials(job, server_app.app, lab.grid, lab.log)
    lab.grid.streams.close()
    assert [one.result(LONG_S) for one in told] == [None, None]


def test_every_client_looks_at_its_path_before_and_after(lab: Any) -> None:
    """Round trips and both directions' goodput, for loads as large as the messages were, one client at a time."""
    run(lab, server_job(server_trial(1, payload_bytes=60_000), probe=True), client_trial())
    probed = lab.events(Probed)
    assert [(one.client, one.stage) for one in probed] == [(c, s) for s in ("before", "after") for c in ("a", "b")]
    assert all(len(one.rtt_ms) == 50 and min(one.rtt_ms) > 0 for one in probed)
    assert all(one.up_mbit and one.down_mbit for one in probed)
    sent = max(event.size_bytes for event in lab.events(MessageSent))
    assert [one.size_bytes for one in probed] == [PROBE_BYTES, PROBE_BYTES, sent, sent]
    first_sent = next(place for place, (_, event) in enumerate(lab.reading.events) if isinstance(event, MessageSent))
    before = [place for place, (_, event) in enumerate(lab.reading.events) if isinstance(event, Probed)][:2]
    assert max(before) < first_sent
    # What pings cost is not wasted: each bounds the clocks' offset, also where idle exchanges are off, as here.
    idle = [event for event in lab.events(ClockExchange) if event.message is None]
    assert {(one.client) for one in idle} == {"a", "b"}
    assert len(idle) == 2 * 2 * 50


def test_nothing_is_injected_into_control_rounds(lab: Any) -> None:
    """Every second round has no delay, says so, and is shorter by it; the draws of the others do not depend on it."""
    delay = Delay(1.0, Constant(DELAY_S))
    run(lab, server_job(server_trial(4, control_every=2)), client_trial(2, delay))
    assert {(one.client, one.round) for one in lab.events(Delayed)} == {(c, r) for c in ("a", "b") for r in (1, 3)}
    assert [one.control for one in lab.events(RoundStarted)] == [False, True, False, True]
    lasted = {one.round: one.duration_s for one in lab.events(RoundEnded)}
    assert min(lasted[1], lasted[3]) - max(lasted[2], lasted[4]) > DELAY_S / 2


def test_switching_counts_in_no_round(lab: Any) -> None:
    """Rounds and pauses add up: the trial's time is that of its rounds alone."""
    run(lab, server_job(server_trial(4, control_every=2)), client_trial(2))
    switched = lab.events(Switched)
    assert [(one.round, one.inject) for one in switched] == [(2, False), (3, True), (4, False)]
    assert all(one.duration_s > 0 for one in switched)
    assert lab.events(Resumed) == []
    total_s = min(one.duration_s for one in lab.events(TrialEnded))  # the clients log here too, and longer ones
    assert total_s == pytest.approx(sum(one.duration_s for one in lab.events(RoundEnded)), abs=1e-6)


def test_who_comes_back_in_a_control_round_is_told_so(lab: Any) -> None:
    """A process that knows nothing gets the open trial, and that nothing is to be injected now."""
    a, b = lab.join_all()
    lab.grid.roster.open_trial(0)
    asked = lab.call(lab.grid.roster.switch, 0, 2, LONG_S, inject=False)
    for hand in (a, b):
        assert hand.hear() == wire.OpenTrial(0)
        assert hand.hear() == wire.Switch(0, 2, inject=False)
        hand.say(wire.Switched(0, 2))
    asked.result(LONG_S)
    a.hang_up()
    again = lab.join("a", session="s2")
    assert [again.hear(), again.hear()] == [wire.OpenTrial(0), wire.Switch(0, 2, inject=False)]


def test_a_client_that_dies_while_it_measures_is_asked_anew(lab: Any) -> None:
    """Its successor knows of nothing; without an answer, the campaign would wait for it in vain."""
    a, b = lab.join_all()
    waiting = lab.call(lab.grid.roster.measure, "before", 1000, LONG_S)
    assert a.hear() == wire.Measure("before", 1000)
    a.hang_up()
    again = lab.join("a", session="s2")
    assert again.hear() == wire.Measure("before", 1000)
    again.say(wire.Measured("before"))
    assert b.hear() == wire.Measure("before", 1000)
    b.say(wire.Measured("before"))
    waiting.result(LONG_S)


def test_who_does_not_switch_is_named(lab: Any) -> None:
    lab.join_all()
    lab.grid.roster.open_trial(0)
    with pytest.raises(ServerError, match=r"^control round: a, b not switched within 0\.05 s$"):
        lab.grid.roster.switch(0, 2, 0.05, inject=False)


def test_a_client_whose_link_is_not_as_asked_ends_the_campaign(lab: Any) -> None:
    """Without it, what is measured is not what the playbook says: nobody waits for it, nobody goes on without it."""
    a, _ = lab.join_all()
    waiting = lab.call(lab.grid.roster.wait_prepared, 0, LONG_S)
    a.say(wire.Leave("link: up: 20 ms of delay were asked for, 31 ms were measured", fatal=True), number=0)
    with pytest.raises(ServerError, match=r"^run: a: link: up: 20 ms of delay were asked for"):
        waiting.result(LONG_S)


def test_a_probe_that_nobody_of_ours_would_ask_for_is_refused(lab: Any) -> None:
    """A client cannot make the server send without end."""
    a, _ = lab.join_all()
    a.say(wire.Ask(1, 0, 0.0, 100, 10**9))
    assert a.hear_rest() == []
    assert lab.grid.roster.absent["a"].startswith("it broke the protocol: a probe of 100 times 1000000000 bytes")
