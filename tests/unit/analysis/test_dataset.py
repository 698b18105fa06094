from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from deploy.analysis.reading.dataset import read_dataset
from deploy.errors import InputError
from flcommon.delay import Constant, Delay
from flcommon.eventlog import EventLog, Moment
from flcommon.events import (
    AppRaised,
    ClientBack,
    ClientGivenUp,
    ClientLost,
    ComputeEnded,
    ComputeStarted,
    Delayed,
    Failed,
    JobAccepted,
    Place,
    Refused,
    ReplyReceived,
    TrialEnded,
)
from flcommon.job import Stop

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def test_totals_rounds_and_clients_are_those_of_the_logs(tmp_path: Path, kit: ModuleType) -> None:
    """Every number of a trial comes out as it went in, whatever clock each host has."""
    work = {"pi4-a": kit.Work(1.0, 0.5, 0.625), "pi4-b": kit.Work(0.25), "pc-c": kit.Work(2.0)}
    rounds = [kit.FakeRound(work, rest_s=0.5, accuracy=0.25), kit.simple_round(4.0, 1.0, rest_s=1.0, accuracy=0.5)]
    run = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0, Delay(0.5, Constant(0.5))), rounds)]).write()
    dataset = read_dataset(run)
    (trial,) = dataset.trials
    assert (trial.status, trial.total_s, trial.accuracy, trial.target_s) == ("complete", 8.5, 0.5, None)
    assert [(r.number, r.started_s, r.duration_s, r.accuracy, r.asked) for r in trial.rounds] == [
        (1, 0.0, 2.5, 0.25, 3),
        (2, 2.5, 6.0, 0.5, 3),
    ]
    assert dataset.works.filter(round=1).rows() == [
        (0, 1, "pi4-a", 1.0, 0.5, 0.625),
        (0, 1, "pi4-b", 0.25, 0.0, 0.0),
        (0, 1, "pc-c", 2.0, 0.0, 0.0),
    ]
    first, second = trial.rounds
    assert (first.told, first.covered, first.drawn_s, first.delayed_s) == (3, True, 0.5, 0.625)
    assert [each.critical and each.critical.client for each in (first, second)] == ["pc-c", "pc-c"]
    assert dataset.problems == ()
    assert dataset.versions["pc-c"] == {"python": "3.11.2", "flwr": "1.41.0"}


def test_with_a_target_the_total_ends_when_it_is_reached(tmp_path: Path, kit: ModuleType) -> None:
    """Time to target where it was reached; the whole trial, marked as censored, where it was not."""
    stop = Stop(metric="accuracy", at_least=0.5)
    rounds = [kit.simple_round(1.0)] * 3
    trials = [
        kit.FakeTrial(kit.plan(0, stop=stop), rounds[:2], reached=True),
        kit.FakeTrial(kit.plan(1, stop=stop), rounds),
    ]
    reached, censored = read_dataset(kit.FakeRun(tmp_path, trials).write()).trials
    assert (reached.total_s, reached.target_s, reached.censored, reached.timed) == (2.0, 2.0, False, True)
    assert (censored.total_s, censored.target_s, censored.censored, censored.timed) == (3.0, None, True, False)


def test_pauses_for_pulling_logs_are_nobodys_time(tmp_path: Path, kit: ModuleType) -> None:
    """With pauses between rounds every number is what it is without them."""
    stop = Stop(metric="accuracy", at_least=0.5)
    rounds = [kit.simple_round(1.0, accuracy=0.1)] * 3
    found = []
    for name, pause_s in (("without", 0.0), ("with", 7.0)):
        trial = kit.FakeTrial(kit.plan(0, stop=stop), rounds, reached=True, pause_s=pause_s)
        (tmp_path / name).mkdir()
        found.append(read_dataset(kit.FakeRun(tmp_path / name, [trial]).write()).trials)
    assert found[0] == found[1]
    assert found[1][0].target_s == 3.0
    assert [each.started_s for each in found[1][0].rounds] == [0.0, 1.0, 2.0]


def test_trials_that_failed_or_never_ended_are_told_apart(tmp_path: Path, kit: ModuleType) -> None:
    rounds = [kit.simple_round(1.0)]
    trials = [
        kit.FakeTrial(kit.plan(0), rounds),
        kit.FakeTrial(kit.plan(1), rounds, ok=False),
        kit.FakeTrial(kit.plan(2), rounds, ended=False),
    ]
    fake = kit.FakeRun(tmp_path, trials)
    run = fake.write()
    never = (*fake.manifest.trials, kit.plan(3))
    (run / "manifest.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(fake.manifest, trials=never)))
    dataset = read_dataset(run)
    assert [trial.status for trial in dataset.trials] == ["complete", "failed", "unfinished", "not started"]
    assert [trial.total_s for trial in dataset.trials] == [1.0, None, None, None]
    assert [trial.plan.index for trial in dataset.complete] == [0]


def test_missing_torn_and_gapped_logs_are_problems_and_not_fatal(tmp_path: Path, kit: ModuleType) -> None:
    fake = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0)] * 2)])
    run = fake.write()
    shutil.rmtree(fake.log("pi4-a").parent)
    torn = fake.log("pi4-b")
    torn.write_bytes(torn.read_bytes()[:-9])
    gapped = fake.log("pc-c")
    lines = gapped.read_bytes().splitlines(keepends=True)
    gapped.write_bytes(b"".join(lines[:2] + lines[3:]))
    (run / "raw" / "stranger").mkdir()
    dataset = read_dataset(run)
    assert dataset.problems == (
        "pi4-a: events.jsonl is missing",
        "pi4-b: events.jsonl:7: torn",
        "pc-c: events.jsonl:3: events 2 to 2 are missing",
        "raw/stranger: no host of this name in the manifest; ignored",
    )
    assert dataset.trials[0].total_s == 2.0
    assert dataset.works.select("round", "client", "compute_s").rows() == [
        (1, "pi4-b", 0.5), (1, "pc-c", None), (2, "pi4-b", 0.5), (2, "pc-c", 1.0),
    ]  # fmt: skip
    assert not dataset.trials[0].rounds[0].covered


def test_what_hosts_complained_about_is_a_problem(tmp_path: Path, kit: ModuleType) -> None:
    fake = kit.FakeRun(tmp_path, [])
    run = fake.write()
    fake.log("pc-c").unlink()
    log = EventLog(fake.log("pc-c"))
    log.write(Failed(step="import", reason="no module named torch"))
    log.write(TrialEnded(trial=7, ok=False, rounds=0, duration_s=0.0))
    log.close()
    assert read_dataset(run).problems == (
        "pc-c: import: no module named torch",
        "pc-c: events of trials that the manifest does not know: [7]",
    )


JOB = JobAccepted(role="client", host="a", campaign="c-1", pid=7, versions={}, job=msgspec.Raw(b"{}"))


def rewritten(run: Path, host: str, story: list[tuple[float, object]]) -> None:
    """Replace a host's log by events at moments (seconds) of its monotonic clock."""
    path = run / "raw" / host / "events.jsonl"
    path.unlink()
    log = EventLog(path)
    for at_s, event in story:
        log.write(event, Moment(round(at_s * 1e9), 1))
    log.close()


def test_a_log_of_another_schema_is_a_problem(tmp_path: Path, kit: ModuleType) -> None:
    """It is read as far as it can be, and the reader is warned of it."""
    run = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0)])]).write()
    log = run / "raw" / "pc-c" / "events.jsonl"
    log.write_text(log.read_text().replace('{"v":1,', '{"v":2,'))
    dataset = read_dataset(run)
    assert [each for each in dataset.problems if each.startswith("pc-c: its log has schema 2, this version reads 1")]
    assert dataset.works.filter(client="pc-c").height == 1


@pytest.mark.parametrize("lost_start", [False, True])
def test_no_duration_runs_from_one_process_to_the_next(tmp_path: Path, kit: ModuleType, *, lost_start: bool) -> None:
    """A client that was started again has another clock: what its last process did counts, if its log says so."""
    run = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0)])]).write()
    work = {"trial": 0, "round": 1, "message": "m0-1-pc-c", "client": "pc-c", "kind": "train"}
    story = [
        (500.0, JOB),
        (501.0, ComputeStarted(**work)),
        (502.0, ComputeEnded(**work, cpu_s=1.0)),
        (503.0, Delayed(**work, requested_s=1.0, measured_s=1.0)),
        (3.0, JOB),
        (4.0, ComputeStarted(**work)),
        (4.25, ComputeEnded(**work, cpu_s=0.25)),
        (4.25, Delayed(**work, requested_s=1.0, measured_s=1.125)),
    ]
    if lost_start:
        del story[5]
    rewritten(run, "pc-c", story)
    dataset = read_dataset(run)
    assert dataset.works.filter(client="pc-c").rows() == [(0, 1, "pc-c", None if lost_start else 0.25, 1.0, 1.125)]
    assert dataset.problems == ("pc-c: its process was started again",)


def test_what_was_lost_is_said_once_and_counted(tmp_path: Path, kit: ModuleType) -> None:
    """Losses, refusals and errors of the app: a sentence each, however often, and where the traceback is."""
    fake = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0)])])
    run = fake.write()
    manifest = msgspec.structs.replace(fake.manifest, lost={"pi4-b": "given up: not back within 120 s"})
    (run / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    place = {"trial": 0, "kind": "train"}
    server = kit.Writer(EventLog(fake.log("server")), mono_s=0.0)
    for client, after_s in (("pi4-a", 2.0), ("pi4-a", 2.5), ("pi4-b", None)):
        server.write(20.0, ClientLost(client=client, reason="silent"))
        if after_s is not None:
            server.write(20.0, ClientBack(client=client, peer="x", after_s=after_s, restarted=after_s > 2))
    server.write(20.0, ClientGivenUp(client="pi4-b", reason="not back within 120 s"))
    for count in (3, 1):
        server.write(20.0, Refused(reason="no certificate", peer="ipv4:192.0.2.9", count=count))
    for number in (1, 2, 3):
        error = {
            "round": number,
            "size_bytes": 10,
            "wire_bytes": 20,
            "receive_s": 0.0,
            "decode_s": 0.0,
            "error": "boom",
        }
        for client in ("pc-c", "pi4-a"):
            server.write(20.0, ReplyReceived(**place, **error, message=f"{client}-{number}", client=client))
    server.log.close()
    log = kit.Writer(EventLog(fake.log("pc-c")), mono_s=3000.0)
    for number in (1, 2, 3):
        log.write(
            20.0,
            AppRaised(**place, round=number, message=f"pc-c-{number}", client="pc-c", error="ValueError: no\nsuch"),
        )
    log.log.close()
    assert read_dataset(run).problems == (
        "pi4-b was missing at the end: given up: not back within 120 s",
        "server: client pi4-a was lost 2 times (silent), back 2 times, after 2.5 s at most, 1 of them in a new process",
        "server: client pi4-b was lost (silent), given up in the end (not back within 120 s)",
        "server: refused ipv4:192.0.2.9: no certificate (4 times)",
        "server: trial 0, round 1: pi4-a replied: boom (the first of 3 times)",
        f"pc-c: the app raised ValueError: no (trial 0, round 1; 3 times; traceback: {run}/raw/pc-c/stderr)",
    )


def test_log_that_is_a_directory_is_a_problem(tmp_path: Path, kit: ModuleType) -> None:
    fake = kit.FakeRun(tmp_path, [])
    run = fake.write()
    fake.log("pc-c").unlink()
    fake.log("pc-c").mkdir()
    assert read_dataset(run).problems == ("pc-c: events.jsonl cannot be read: Is a directory",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a run directory: No such file"),
        (b"{", "not a valid manifest"),
        (b'{"schema": 1}', "missing required field `campaign`"),
        (b"\xff\xfe", "not a valid manifest"),
    ],
)
def test_directory_without_a_manifest_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(tmp_path)
    assert caught.value.file == tmp_path / "manifest.json"


def test_manifest_of_another_schema_is_refused(tmp_path: Path, kit: ModuleType) -> None:
    fake = kit.FakeRun(tmp_path, [])
    fake.write()
    newer = msgspec.structs.replace(fake.manifest, schema=99)
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(newer))
    with pytest.raises(InputError, match="schema: this version reads schema 1, not 99"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("lost_end", [False, True])
def test_several_trainings_of_a_round_are_one_row(tmp_path: Path, kit: ModuleType, *, lost_end: bool) -> None:
    """A secure aggregation sends four `train` messages a round, and delays one: the client's times add up."""
    run = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0)])]).write()

    def place(message: str) -> Place:
        return Place(trial=0, round=1, message=message, client="pc-c", kind="train")

    told = [
        (0.0, JOB),
        (0.0, ComputeStarted(**place("m1"))),
        (0.25, ComputeEnded(**place("m1"), cpu_s=0.0)),
        (1.0, ComputeStarted(**place("m2"))),
        (3.0, ComputeEnded(**place("m2"), cpu_s=0.0)),
        (8.0, Delayed(**place("m2"), requested_s=4.5, measured_s=5.0)),
    ]
    rewritten(run, "pc-c", told[:-2] if lost_end else told)
    (row,) = read_dataset(run).works.filter(client="pc-c").rows()
    assert row == ((0, 1, "pc-c", None, None, None) if lost_end else (0, 1, "pc-c", 2.25, 4.5, 5.0))


def test_analysis_imports_nothing_of_the_live_lab() -> None:
    """A report can be made where neither Fabric nor Flower nor torch is installed."""
    code = (
        "import sys, deploy.analysis.report, deploy.analysis.figures.catalogue, deploy.analysis.figures.render;"
        "print(sorted({'fabric', 'paramiko', 'asyncssh', 'torch', 'flwr', 'grpc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
