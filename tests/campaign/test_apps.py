"""Six complete Flower apps in the styles of Flower's own documentation run unmodified, by `up` on a virtual lab.

Each test knows what a correct run must give, from arithmetic of its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deploy.analysis.report import write_report
from deploy.errors import CampaignError, LabError
from flcommon import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPS = Path(__file__).parents[1] / "apps"
CLIENTS = ("client-1", "client-2")


@dataclass(frozen=True)
class Ran:
    """What a run left: its events, what the server's app printed, and what its report complains about."""

    bench: Any
    view: Any
    problems: tuple[str, ...] = ()

    def of(self, host: str, kind: type, trial: int = 0) -> list[Any]:
        return [one for one in self.bench.log(self.view, host) if isinstance(one, kind) and one.trial == trial]

    def metrics(self, source: str, trial: int = 0) -> dict[int, dict[str, float]]:
        return {one.round: one.values for one in self.of("server", events.Metrics, trial) if one.source == source}

    def stdout(self) -> list[str]:
        return (self.view.directory / "raw" / "server" / "stdout").read_text().splitlines()

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout() if line.startswith("{")]


@pytest.fixture
def run(bench: Any, recorder: type, tmp_path: Path) -> Iterator[Callable[..., Ran]]:
    """Return a function that runs an app of tests/apps; afterwards no file of any app has changed."""
    before = digest(APPS)

    def up(app: str, *lines: str, clients: int = 2) -> Ran:
        (tmp_path / "apps").exists() or (tmp_path / "apps").symlink_to(APPS)
        view = recorder()
        bench.up(
            view, "\n".join(["playbook: p", f"app: apps/{app}", "order: listed", "probe: off", *lines]), clients=clients
        )
        manifest = bench.manifest(view)
        assert (manifest.status, manifest.error, manifest.app) == ("complete", None, f"apps/{app}")
        summary = write_report(view.directory)
        assert summary.trials_complete == summary.trials_planned
        assert summary.page.is_file()
        return Ran(bench, view, summary.problems)

    yield up
    assert digest(APPS) == before


def digest(root: Path) -> dict[str, str]:
    made = ("__pycache__", ".ruff_cache")
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not set(made) & set(path.parts)]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_quickstart_with_the_message_api(run: Callable) -> None:
    """Two trials with the app's own rounds: the losses are those of federated averaging, done here by hand."""
    ran = run("quickstart", "sweep: {run_config.lr: [0.1, 0.05]}", "warmup_rounds: 1")
    for trial, lr in enumerate((0.1, 0.05)):
        train, evaluated = federated(lr, rounds=3)
        assert ran.metrics("train", trial) == {n: {"train_loss": pytest.approx(x)} for n, x in enumerate(train, 1)}
        assert ran.metrics("evaluate", trial) == {
            n: {"eval_loss": pytest.approx(x)} for n, x in enumerate(evaluated, 1)
        }
        phases = [one.phase for one in ran.of("server", events.PhaseEnded, trial)]
        assert phases == ["configure", "aggregate"] * 2 * 3
    assert [one.rounds for one in ran.of("server", events.TrialEnded, -1)] == [1]
    assert ran.problems == ()
    planned = ran.bench.manifest(ran.view).trials
    assert [trial.rounds for trial in planned] == [3, 3]
    config = {"num-server-rounds": 3, "fraction-evaluate": 1.0, "local-epochs": 2}
    assert [trial.run_config for trial in planned] == [{**config, "lr": 0.1}, {**config, "lr": 0.05}]


def federated(lr: float, rounds: int) -> tuple[list[float], list[float]]:
    """Return the average losses after training and on evaluation, round by round."""
    shares = []
    for k in (0, 1):
        x = np.random.default_rng(200 + k).normal(size=(20 + 10 * k, 3))
        shares.append((x, x @ np.array([1.0, 2.0, 3.0])))

    def mse(w: np.ndarray, k: int) -> float:
        x, y = shares[k]
        return float(((x @ w - y) ** 2).mean())

    def descended(w: np.ndarray, k: int) -> np.ndarray:
        x, y = shares[k]
        for _ in range(2):
            w = w - lr * 2 * x.T @ (x @ w - y) / len(x)
        return w

    model, train, evaluated = np.zeros(3), [], []
    for _ in range(rounds):
        local = [descended(model, k) for k in (0, 1)]
        train.append((20 * mse(local[0], 0) + 30 * mse(local[1], 1)) / 50)
        model = (20 * local[0] + 30 * local[1]) / 50
        evaluated.append((20 * mse(model, 0) + 30 * mse(model, 1)) / 50)
    return train, evaluated


def test_a_legacy_app_with_client_fn_and_server_fn(run: Callable) -> None:
    """Weights move by (1·1 + 2·2)/3 = 5/3 of the step a round; the model is fresh in each trial; a target ends one."""
    ran = run("legacy", "rounds: 4", "run_config: {step: 3}", "repeats: 2", "stop: {metric: accuracy, at_least: 1.2}")
    for trial in (0, 1):
        # From 2 by 5 a round: 7, 12; the accuracy is a tenth of that, so that round 2 is the last of four.
        assert ran.metrics("central", trial) == {
            0: {"loss": 10.0, "central_round": 0.0},
            1: {"loss": pytest.approx(5.0), "central_round": 1.0},
            2: {"loss": pytest.approx(0.0, abs=1e-9), "central_round": 2.0},
        }
        assert ran.metrics("train", trial) == {1: {"round": 1.0}, 2: {"round": 2.0}}
        assert ran.metrics("evaluate", trial)[2] == {"loss": pytest.approx(12.0), "accuracy": pytest.approx(1.2)}
        (reached,) = ran.of("server", events.TargetReached, trial)
        assert (reached.round, reached.metric) == (2, "accuracy")
        phases = [(one.round, one.phase) for one in ran.of("server", events.PhaseEnded, trial)]
        a_round = ["configure", "aggregate", "evaluate", "configure", "aggregate"]
        assert phases == [(0, "evaluate"), *((n, phase) for n in (1, 2) for phase in a_round)]
        asked = [(one.round, one.kind) for one in ran.of("server", events.MessageSent, trial)]
        assert asked[0] == (0, "get_parameters")


def test_an_app_that_drives_the_grid_itself(run: Callable) -> None:
    """Polling, queries of its own, two message types a round: what it found is the statistics of 0 … 9."""
    ran = run("own_grid", "run_config: {bins: 5}")
    (told,) = ran.told()
    # Clients hold the even and the odd numbers, with means 4 and 5: half way from 0 to 4.5, and half way again.
    assert (told["low"], told["high"], told["counts"], told["nodes"]) == (0, 9, [2, 2, 2, 2, 2], 2)
    assert told["model"] == [4.5 * (1 - 0.25)]
    assert told["distances"] == [[1.75, 2.75], [0.625, 1.625]]
    assert told["notes"] == ["round 1!", "round 1!", "round 2!", "round 2!"]
    sent = ran.of("server", events.MessageSent)
    kinds = [(1, "query"), (1, "query.histogram"), (1, "train"), (1, "evaluate"), (2, "train"), (2, "evaluate")]
    for client in CLIENTS:
        assert [(one.round, one.kind) for one in sent if one.client == client] == kinds
    assert [one.round for one in ran.of("server", events.RoundEnded)] == [1, 2]
    assert [trial.rounds for trial in ran.bench.manifest(ran.view).trials] == [0]
    assert ran.of("server", events.TrialOpened, -1) == []
    assert ran.problems == ()


def test_an_app_with_mods(run: Callable) -> None:
    """Every update of (30, 40) is clipped to the norm that the playbook asks for; the app's own mod counts messages."""
    ran = run("mods", "run_config: {clipping-norm: 2.0}")
    # Along (0.6, 0.8) by the norm a round; messages 1, 2 in round 1 (train, evaluate), 3, 4 in round 2.
    assert ran.metrics("evaluate") == {
        1: {"x": pytest.approx(1.2), "y": pytest.approx(1.6), "messages": pytest.approx(2.0)},
        2: {"x": pytest.approx(2.4), "y": pytest.approx(3.2), "messages": pytest.approx(4.0)},
    }
    assert [one.values["messages"] for one in ran.of("server", events.Metrics) if one.source == "train"] == [1.0, 3.0]
    for client in CLIENTS:
        written = (ran.view.directory / "raw" / client / "stderr").read_text()
        assert (
            written.count("fixedclipping_mod: parameters are clipped by value: 2.0000") == 1 + 2
        )  # the warm-up has one round


def test_an_app_with_secure_aggregation(run: Callable) -> None:
    """The server learns the average and nothing else: 10·1 + 20·2 + 30·3 over 60 a round, within the quantisation.

    Four `train` messages a round, of which one trains: each client is delayed once, at that one.
    """
    ran = run("secagg", "delay: {at: before-upload, probability: 1, seconds: 0.05}", clients=3)
    moved = (10 * 1 + 20 * 2 + 30 * 3) / 60
    assert ran.problems == ()
    assert ran.metrics("evaluate") == {n: {"loss": pytest.approx(n * moved, abs=0.01)} for n in (1, 2)}
    for client in ("client-1", "client-2", "client-3"):
        assert [one.round for one in ran.of(client, events.Delayed)] == [1, 2]
        trained = [one.message for one in ran.of(client, events.ComputeStarted) if one.kind == "train"]
        delayed = [one.message for one in ran.of(client, events.Delayed)]
        assert [trained.index(message) for message in delayed] == [2, 4 + 2]


def test_state_actions_and_errors_are_flowers(run: Callable) -> None:
    """State lasts for a trial and no longer; actions find their function; an app may live with a client's error."""
    ran = run("state", "repeats: 2", "run_config: {greeting: ahoy}", "seed: 3")
    first, second = ran.told()
    planned = ran.bench.manifest(ran.view).trials
    for told, trial in zip((first, second), planned, strict=True):
        assert told["errors"] == [[2, 2, "ValueError: partition 1 has no data in cycle 2"]]
        assert told["own"] == 0, "the server's Context is fresh"
        done = {one["partition"]: one["done"] for one in told["told"]}
        assert done[0] == ["", "local-1", "global-1", "local-2", "global-2"]
        assert done[1] == ["", "local-1", "global-1", "global-2"]
        assert {(one["greeting"], one["partitions"], one["seed"]) for one in told["told"]} == {("ahoy", 2, trial.seed)}
        assert [(cycle, partition) for cycle, partition, _ in told["draws"]] == [(1, 0), (1, 1), (2, 0)]
    assert planned[0].seed != planned[1].seed
    assert first["draws"] != second["draws"]
    errors = [one.error for one in ran.of("server", events.ReplyReceived) if one.error]
    assert errors == ["ValueError: partition 1 has no data in cycle 2"]
    (problem,) = ran.problems
    traceback = ran.view.directory / "raw" / "client-2" / "stderr"
    why = "ValueError: partition 1 has no data in cycle 2"
    assert problem == f"client-2: the app raised {why} (trial 0, round 2; 2 times; traceback: {traceback})"
    assert "has no data in cycle 2" in traceback.read_text()


def test_the_same_trial_gives_the_same_draws_whatever_ran_before(run: Callable) -> None:
    """An app that draws from Python's generator gets the same numbers in a campaign of one trial as in one of two."""
    (alone,) = run("state", "seed: 3").told()
    together = run("state", "seed: 3", "repeats: 2").told()
    assert alone["draws"] == together[0]["draws"]


# --- apps of other places, and apps that fail -------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Give a copy of the quickstart, to be changed."""
    return Path(shutil.copytree(APPS / "quickstart", tmp_path / "quickstart"))


def test_a_package_that_this_machine_imports_is_pushed(
    bench: Any, recorder: type, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name alone: the hosts run it from what was pushed, wherever it lies here."""
    monkeypatch.syspath_prepend(copied)
    view = recorder()
    config = "run_config: {local-epochs: 2, lr: 0.1, fraction-evaluate: 1.0}"
    bench.up(view, f"playbook: p\napp: quickstart\nrounds: 1\n{config}\n")
    ((loss,), _) = federated(0.1, rounds=1)
    found = Ran(bench, view).metrics("train")
    assert found == {1: {"train_loss": pytest.approx(loss)}}


def test_an_app_that_fails_everywhere_says_why(bench: Any, recorder: type, copied: Path) -> None:
    """The campaign ends with the round, a client and the app's own words; the traceback is in that client's log."""
    task = copied / "quickstart" / "task.py"
    task.write_text(task.read_text().replace("return weights, test(weights, data)", "raise OSError('no disk')"))
    view = recorder()
    with pytest.raises(
        CampaignError, match=r"server: round 1: the app failed on every client; client-\d: OSError: no disk"
    ):
        bench.up(view, "playbook: p\napp: quickstart\n")
    manifest = bench.manifest(view)
    assert manifest.status == "failed"
    assert "OSError: no disk" in manifest.error
    for client in CLIENTS:
        stderr = (view.directory / "raw" / client / "stderr").read_text()
        assert "Traceback" in stderr
        assert "task.py" in stderr


def test_an_app_that_cannot_be_imported_says_what_it_misses(bench: Any, recorder: type, copied: Path) -> None:
    """A dependency that nobody has written down: one sentence with its name."""
    server = copied / "quickstart" / "server_app.py"
    server.write_text(f"import a_library_nobody_has\n{server.read_text()}")
    with pytest.raises(CampaignError, match=r"quickstart\.server_app:app: cannot be imported: .*a_library_nobody_has"):
        bench.up(recorder(), "playbook: p\napp: quickstart\n")


def test_a_dependency_that_is_missing_is_found_before_anything_starts(bench: Any, recorder: type, copied: Path) -> None:
    """The hosts of a virtual lab have a Python of their own (manager: existing): what is not there is asked for."""
    project = copied / "pyproject.toml"
    project.write_text(project.read_text().replace('"numpy>=1.26"', '"numpy>=1.26", "a-library-nobody-has>=2"'))
    view = recorder()
    with pytest.raises(LabError, match=r"lacks a-library-nobody-has>=2; .* -m pip install 'a-library-nobody-has>=2'"):
        bench.up(view, "playbook: p\napp: quickstart\n")
    assert view.directory is None
