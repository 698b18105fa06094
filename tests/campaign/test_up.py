"""What `up` promises when all goes well."""

from __future__ import annotations

import itertools
import json
from statistics import median

from flcommon import events

ORDERS = """
playbook: orders
app: flclient.apps.cifar10
probe: off
data: {set: digits, partition: iid}
run_config: {lr: 0.05}
rounds: 2
order: %s
delay: {at: before-upload, seconds: {distribution: uniform, low_s: 0, high_s: 0.02}}
sweep: {delay.probability: [0.5, 1]}
seed: %d
"""


def test_a_campaign_leaves_a_complete_run_directory(bench, recorder):
    """Every host's files are pulled, and the manifest says what was planned and that it is complete."""
    view = recorder()
    bench.up(view)
    manifest = bench.manifest(view)
    assert (manifest.status, manifest.error) == ("complete", None)
    assert {host: record.role for host, record in manifest.hosts.items()} == {
        "server": "server",
        "client-1": "client",
        "client-2": "client",
    }
    assert set(manifest.phases_s) == {"hosts", "connect", "look", "prepare", "push", "start", "run", "stop", "pull"}
    for host in manifest.hosts:
        assert json.loads((view.directory / "raw" / host / "exit.json").read_text()) == {"status": 0}
        assert isinstance(bench.log(view, host)[0], events.JobAccepted)
    assert view.notes == []


def test_every_client_waits_what_was_drawn(bench, recorder):
    """At p = 1 every update is delayed by d, at p = 0 none; what was measured is never less, and hardly more."""
    view = recorder()
    bench.up(view)
    for host in ("client-1", "client-2"):
        delays = [one for one in bench.log(view, host) if isinstance(one, events.Delayed)]
        assert [(one.trial, one.round, one.requested_s) for one in delays] == [
            (0, 1, 0), (0, 2, 0), (1, 1, 0.05), (1, 2, 0.05),
        ]  # fmt: skip
        late = [one.measured_s - one.requested_s for one in delays]
        assert min(late) >= 0
        assert median(late) < 0.005


def test_rounds_add_up_to_their_trial(bench, recorder):
    """A trial's time is the sum of its rounds' times: no second is between them."""
    view = recorder()
    bench.up(view)
    log = bench.log(view, "server")
    for trial in (one for one in log if isinstance(one, events.TrialEnded)):
        rounds = [one.duration_s for one in log if isinstance(one, events.RoundEnded) and one.trial == trial.trial]
        assert len(rounds) == trial.rounds
        assert abs(sum(rounds) - trial.duration_s) < 1e-6


def test_a_trial_repeats_exactly_whatever_ran_before_it(bench, recorder):
    """The same seed gives the same accuracies and the same delays, in whatever order the trials run."""
    stories = []
    for order, seed in (("listed", 1), ("shuffled", 1)):
        view = recorder()
        bench.up(view, ORDERS % (order, seed))
        stories.append((_metrics(bench.log(view, "server")), _delays(bench.log(view, "client-2")), _order(view)))
    (metrics, delays, order), (metrics_again, delays_again, order_again) = stories
    assert order != order_again, "choose a seed whose shuffle differs from the list"
    assert metrics == metrics_again
    assert delays == delays_again
    assert all(metrics[trial, 2] > 0.2 for trial in (0, 1)), "well above chance"


def test_a_trial_boundary_is_short(bench, recorder):
    """From the last event of one trial to the first message of the next takes less than a round of this app: < 1 s."""
    view = recorder()
    bench.up(view)
    path = view.directory / "raw" / "server" / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for before, after in itertools.pairwise(one for one in lines if one["name"] in ("trial-ended", "message-sent")):
        if before["name"] == "trial-ended":
            assert (after["mono_ns"] - before["mono_ns"]) / 1e9 < 1


def _metrics(log):
    central = [one for one in log if isinstance(one, events.Metrics) and one.source == "central"]
    return {(one.trial, one.round): one.values["accuracy"] for one in central}


def _delays(log):
    return {(one.trial, one.round): one.requested_s for one in log if isinstance(one, events.Delayed)}


def _order(view):
    return [event.trial for _, event in view.events if isinstance(event, events.TrialEnded)]
