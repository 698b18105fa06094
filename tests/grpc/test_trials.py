"""Trials over real streams with real sessions: unmodified Flower apps, from fresh state, and what their failure does.

Server and clients write to one log here; what both may say is told apart by what only one of them says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

from flclient.apps.payload import client_app, server_app
from flcommon import wire
from flcommon.events import (
    CampaignEnded,
    ClientGivenUp,
    MessageSent,
    Metrics,
    PhaseEnded,
    ReplyReceived,
    RoundEnded,
    RoundStarted,
    TargetReached,
    TrialEnded,
    TrialOpened,
)
from flcommon.job import AppRef, ClientTrial, ServerJob, ServerTrial, Stop, Transport
from flserver.campaign import run_trials
from flserver.errors import ClientsLost

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

LONG_S = 20.0
HASTY = Transport(keepalive_s=60.0, rejoin_timeout_s=0.3, clock_every_s=0.0)
CLIENT_TRIALS = [ClientTrial(index=index, seed=7, run_config={}, schedule=0) for index in range(2)]


def server_job(*trials: ServerTrial) -> ServerJob:
    app = AppRef(client="not.used:app", server="not.used:app")
    return ServerJob(campaign="c1", host="server", app=app, listen="127.0.0.1:0", clients=("a", "b"), trials=trials)


def server_trial(index: int, rounds: int = 2, stop: Stop | None = None) -> ServerTrial:
    config = {"num-server-rounds": rounds, "payload-bytes": 1000}
    return ServerTrial(index=index, seed=7, run_config=config, rounds=rounds, stop=stop)


@pytest.fixture
def sessions(lab: Any) -> Callable[..., list[Future]]:
    """Return a function that lets clients a and b join with these apps."""

    def join(a: ClientApp, b: ClientApp) -> list[Future]:
        told = [lab.session(name, app, lab.log, *CLIENT_TRIALS) for name, app in (("a", a), ("b", b))]
        lab.grid.roster.wait_joined(LONG_S)
        return told

    return join


def broken(reason: str) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
        raise ValueError(reason)

    return app


def test_one_failing_app_does_not_stop_the_trial(lab: Any, sessions: Callable) -> None:
    """Every round goes on with the client that works, and each failure is in the log with its reason."""
    told = sessions(client_app.app, broken("no data"))
    run_trials(server_job(server_trial(0)), server_app.app, lab.grid, lab.log)
    lab.grid.streams.close()
    assert [one.result(LONG_S) for one in told] == [None, None]
    errors = [(event.round, event.error) for event in lab.events(ReplyReceived) if event.client == "b"]
    assert errors == [(1, "ValueError: no data"), (2, "ValueError: no data")]
    assert {event.error for event in lab.events(ReplyReceived) if event.client == "a"} == {None}
    assert lab.events(CampaignEnded) == [CampaignEnded(ok=True, trials_done=1)]


def test_all_apps_failing_ends_the_campaign(lab: Any, sessions: Callable) -> None:
    """The trial is closed as failed, the next one is not begun, and the error says what went wrong on a client."""
    told = sessions(broken("no data"), broken("no disk"))
    with pytest.raises(server_app.PayloadError, match="round 1: the app failed on every client; ValueError: no data"):
        run_trials(server_job(server_trial(0), server_trial(1)), server_app.app, lab.grid, lab.log)
    assert lab.events(CampaignEnded) == [CampaignEnded(ok=False, trials_done=0)]
    lab.grid.streams.close("failed")
    assert all(one.exception(LONG_S) for one in told)
    assert [(event.trial, event.ok) for event in lab.events(TrialEnded)] == [(0, False)] * 3
    assert {event.trial for event in lab.events(TrialOpened)} == {0}


def test_a_server_app_that_raises_ends_the_campaign(lab: Any, sessions: Callable) -> None:
    """The app's own error comes out as it is; the clients hear that the trial failed; Flower is as it was."""
    told = sessions(client_app.app, client_app.app)
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        raise ZeroDivisionError

    original = Strategy.start
    with pytest.raises(ZeroDivisionError):
        run_trials(server_job(server_trial(0)), app, lab.grid, lab.log)
    assert Strategy.start is original
    lab.grid.streams.close("failed")
    assert all(one.exception(LONG_S) for one in told)
    assert [event.ok for event in lab.events(TrialEnded)] == [False] * 3


def test_a_client_lost_while_it_prepares_is_not_waited_for_without_end(make_lab: Callable) -> None:
    """After the rejoin time-out the trial begins with those that are left; without anybody the campaign ends."""
    lab = make_lab("a", "b", transport=HASTY)
    a, b = lab.join_all()
    running = lab.call(run_trials, server_job(server_trial(0, rounds=1)), server_app.app, lab.grid, lab.log)
    assert a.hear() == b.hear() == wire.OpenTrial(0)
    b.hang_up()
    a.say(wire.Prepared(0))
    a.instruction()
    (given_up,) = lab.events(ClientGivenUp)
    assert given_up.client == "b"
    assert given_up.reason.endswith("and it did not come back within 0.3 s")
    a.hang_up()
    lost = running.exception(LONG_S)
    assert isinstance(lost, ClientsLost)
    assert set(lost.reasons) == {"a", "b"}


# --- a strategy -------------------------------------------------------------------------------------------------------


class PlusOne(ClientApp):
    """Adds one to every weight."""

    def __init__(self) -> None:
        super().__init__()

        @self.train()
        def train(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
            (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
            metrics = MetricRecord({"num-examples": 1, "loss": 2.0})
            arrays = ArrayRecord([weights + 1])
            return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def averaging(finals: list[float]) -> ServerApp:
    """Return an app as a user writes it: FedAvg, whose accuracy is a tenth of the weight."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        def evaluate(_round: int, arrays: ArrayRecord) -> MetricRecord:
            (weights,) = arrays.to_numpy_ndarrays()
            return MetricRecord({"accuracy": float(weights[0]) / 10})

        result = FedAvg(fraction_evaluate=0.0).start(
            grid,
            ArrayRecord([np.zeros(3, dtype=np.float32)]),
            num_rounds=int(context.run_config["num-server-rounds"]),
            evaluate_fn=evaluate,
        )
        finals.append(float(result.arrays.to_numpy_ndarrays()[0][0]))

    return app


def test_an_unmodified_strategy_learns_and_is_accounted_for(lab: Any, sessions: Callable) -> None:
    """Weights grow by one a round; the rounds' durations add up to the trial's; each trial starts from zero."""
    told = sessions(PlusOne(), PlusOne())
    finals: list[float] = []
    job = server_job(server_trial(0, rounds=3), server_trial(1, rounds=2))
    run_trials(job, averaging(finals), lab.grid, lab.log)
    lab.grid.streams.close()
    assert [one.result(LONG_S) for one in told] == [None, None]
    assert finals == [3.0, 2.0]
    central = [(e.trial, e.round, e.values["accuracy"]) for e in lab.events(Metrics) if e.source == "central"]
    assert central == [(0, r, r / 10) for r in range(4)] + [(1, r, r / 10) for r in range(3)]
    assert [e.values for e in lab.events(Metrics) if e.source == "train"] == [{"loss": 2.0}] * 5
    for trial, rounds in ((0, 3), (1, 2)):
        durations = [event.duration_s for event in lab.events(RoundEnded) if event.trial == trial]
        assert len(durations) == rounds
        totals = [event.duration_s for event in lab.events(TrialEnded) if event.trial == trial]
        assert any(sum(durations) == pytest.approx(total, rel=1e-9) for total in totals)  # one is the server's
        assert [event.round for event in lab.events(RoundStarted) if event.trial == trial] == [*range(1, rounds + 1)]


def test_nothing_of_a_round_lies_outside_it(lab: Any, sessions: Callable) -> None:
    """On the server's clock each phase and message of a round is within it, and round 2 starts as round 1 ends."""
    sessions(PlusOne(), PlusOne())
    run_trials(server_job(server_trial(0, rounds=2)), averaging([]), lab.grid, lab.log)
    lab.grid.streams.close()
    stamped = [(stamp.mono_ns, event) for stamp, event in lab.reading.events]
    starts = {event.round: at for at, event in stamped if isinstance(event, RoundStarted)}
    ends = {event.round: at for at, event in stamped if isinstance(event, RoundEnded)}
    assert ends[1] == starts[2]
    inside = [(at, e) for at, e in stamped if isinstance(e, MessageSent | ReplyReceived | PhaseEnded) and e.round > 0]
    assert len(inside) == 2 * (2 + 2 + 5)
    assert all(starts[event.round] <= at <= ends[event.round] for at, event in inside)


def test_the_target_ends_a_trial_and_not_the_campaign(lab: Any, sessions: Callable) -> None:
    """Accuracy .2 after round 2 of 9 is enough: the trial ends well, and the next one is run."""
    sessions(PlusOne(), PlusOne())
    job = server_job(server_trial(0, rounds=9, stop=Stop("accuracy", 0.2)), server_trial(1, rounds=1))
    run_trials(job, averaging([]), lab.grid, lab.log)
    lab.grid.streams.close()
    assert lab.events(TargetReached) == [TargetReached(trial=0, round=2, metric="accuracy", value=0.2)]
    assert [(e.trial, e.round) for e in lab.events(RoundEnded)] == [(0, 1), (0, 2), (1, 1)]
    assert lab.events(CampaignEnded) == [CampaignEnded(ok=True, trials_done=2)]
    assert all(event.ok for event in lab.events(TrialEnded))
