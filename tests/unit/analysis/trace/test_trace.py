"""What a trace shows of tasks that are known to the millisecond; whatever a log says, viewers can open it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.analysis.account.account import account
from deploy.analysis.columns import SAMPLES, TASKS
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.trace.steps import ON_CLIENT
from deploy.analysis.trace.write import write_trace
from flcommon.delay import Constant

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import pytest

    from deploy.analysis.reading.rows import Dataset


def traced(made: ModuleType, found: Dataset, folder: Path, **options: int) -> Any:
    written = write_trace(found, found.rounds, folder / "trace.json", **options)
    shown = made.read(written.path)
    assert (written.slices, written.arrows) == (len(shown.slices), len(shown.arrows))
    return shown


def two_clients(made: ModuleType) -> Dataset:
    """Client pi-a has its reply there at 221 ms, pi-b at 311 ms; pi-b has no delay and computes longer."""
    return made.dataset(
        [made.task("pi-a", 10), made.task("pi-b", 12, compute_s=238, delay_s=0)],
        rounds=[made.one_round(1, 0, 400)],
        phases=[made.phase("configure", 1, 4), made.phase("aggregate", 330, 340), made.phase("evaluate", 345, 390)],
    )


def test_the_steps_of_a_message_stand_where_they_happened(made: ModuleType, tmp_path: Path) -> None:
    """On the server's clock, from its log's first stamp; a step without time has no slice."""
    shown = traced(made, two_clients(made), tmp_path)
    assert shown.steps("pi-a", "messages") == [
        ("train", 10, 226), ("downlink", 10, 30), ("client-queue", 30, 31), ("client-decode", 31, 35),
        ("compute", 35, 135), ("delay", 135, 185), ("client-encode", 185, 190), ("reply-queue", 190, 196),
        ("uplink", 196, 226), ("waiting", 226, 316),
    ]  # fmt: skip
    of_last = [name for name, _, _ in shown.steps("pi-b", "messages")]
    assert of_last == ["train (last)", *(step for step in ON_CLIENT if step != "delay")]
    assert shown.steps("server", "messages of pi-a") == [
        ("train", 5, 233), ("server-encode", 5, 7), ("server-queue", 7, 10), ("server-decode", 226, 233),
    ]  # fmt: skip


def test_the_critical_path_is_the_last_client_between_the_servers_phases(made: ModuleType, tmp_path: Path) -> None:
    """One after the other; where two overlap, the later one is cut."""
    shown = traced(made, two_clients(made), tmp_path)
    assert shown.steps("server", "critical path") == [
        ("configure", 1, 4), ("server-encode", 7, 9), ("server-queue", 9, 12), ("downlink", 12, 32),
        ("client-queue", 32, 33), ("client-decode", 33, 37), ("compute", 37, 275), ("client-encode", 275, 280),
        ("reply-queue", 280, 286), ("uplink", 286, 316), ("server-decode", 316, 323), ("aggregate", 330, 340),
        ("evaluate", 345, 390),
    ]  # fmt: skip


def test_arrows_lead_from_the_first_byte_to_the_last(made: ModuleType, tmp_path: Path) -> None:
    """From the server's queue to the downlink's end, and back from the uplink's start to where it is decoded."""
    shown = traced(made, two_clients(made), tmp_path)
    assert [arrow for arrow in shown.arrows if "pi-a" in arrow[0] + arrow[1]] == [
        (("server", "messages of pi-a", 10 * made.MS - 1), ("pi-a", "messages", 30 * made.MS - 1)),
        (("pi-a", "messages", 196 * made.MS), ("server", "messages of pi-a", 226 * made.MS)),
    ]


def test_control_rounds_and_last_replies_can_be_searched_for(made: ModuleType, tmp_path: Path) -> None:
    """By name and by category; the numbers stand in `args` under the columns' names."""
    found = made.dataset(
        [made.task("pi-a", 10), made.task("pi-a", 410, (0, 2)) | {"control": True}],
        rounds=[made.one_round(1, 0, 400), made.one_round(2, 400, 800, control=True)],
    )
    shown = traced(made, found, tmp_path)
    names = [each.name for each in shown.slices if each.thread == "rounds"]
    assert names == ["round 1", "round 2 (control)"]
    categories = {event["cat"] for event in shown.whole["traceEvents"] if event["ph"] == "X"}
    assert {"round,control", "task,critical", "task,control,critical", "step,control,critical"} <= categories
    (uplink, *_) = (each for each in shown.slices if each.name == "uplink" and each.host == "pi-a")
    assert (uplink.args["up_bytes"], uplink.args["up_s"], uplink.args["uncertainty_s"]) == (248024, 0.03, 0.0005)


def test_messages_that_overlap_have_lanes(made: ModuleType, tmp_path: Path) -> None:
    """Two instructions at once to one client: the second is on a thread beside, the third again on the first."""
    found = made.dataset([made.task("pi-a", 10), made.task("pi-a", 100), made.task("pi-a", 300)])
    shown = traced(made, found, tmp_path)
    whole = [
        (each.thread, each.start_ns // made.MS) for each in shown.slices if each.host == "pi-a" and not each.inside
    ]
    assert sorted(whole) == [("messages", 10), ("messages", 300), ("messages (2)", 100)]


def test_a_reply_after_the_round_is_not_what_it_waited_for(made: ModuleType, tmp_path: Path) -> None:
    """The last one that counts is the last one in time."""
    tasks = [made.task("pi-a", 10), made.task("pi-b", 12, compute_s=500)]
    shown = traced(made, made.dataset(tasks, rounds=[made.one_round(1, 0, 400)]), tmp_path)
    assert {each.host for each in shown.slices if each.name == "train (last)" and each.host != "server"} == {"pi-a"}


def test_machines_have_counters(made: ModuleType, tmp_path: Path) -> None:
    """What is not known is left out, and the unit is told."""
    sample = dict.fromkeys(SAMPLES.schema) | {"host": "pi-a", "start_s": 0.25, "cpu_pct": 50.0, "temperature_c": 61.5}
    found = made.dataset([made.task("pi-a", 10)], samples=[sample])
    at = 250 * made.MS
    assert traced(made, found, tmp_path).counters == {
        ("pi-a", "cpu pct"): [(at, 50.0)],
        ("pi-a", "temperature c"): [(at, 61.5)],
    }


def test_a_run_that_is_too_long_is_cut_after_the_last_round_that_fits(made: ModuleType, tmp_path: Path) -> None:
    """Neither a round's slices nor its arrows are cut; samples end there too; the file and the summary say it."""
    tasks = [made.task("pi-a", 400 * number + 10, (0, number)) for number in range(1, 11)]
    rounds = [made.one_round(number, 400 * number, 400 * number + 400) for number in range(1, 11)]
    samples = [dict.fromkeys(SAMPLES.schema) | {"host": "pi-a", "start_s": at / 10, "cpu_pct": 1.0} for at in range(50)]
    found = made.dataset(tasks, rounds=rounds, samples=samples)
    written = write_trace(found, found.rounds, tmp_path / "trace.json", limit=120)
    shown = made.read(written.path)
    assert (written.rounds, written.rounds_left_out) == (3, 7)
    assert len(shown.slices) <= 120
    assert shown.whole["otherData"]["left out"] == "the last 7 of 10 rounds"
    assert [each.name for each in shown.slices if each.thread == "rounds"] == ["round 1", "round 2", "round 3"]
    assert max(at for at, _ in shown.counters["pi-a", "cpu pct"]) == 1600 * made.MS


def test_the_last_client_is_the_accounts(made: ModuleType, tmp_path: Path) -> None:
    """In every round, whoever is slow; the trace's rounds tell all that the account found."""
    clients = ("pi-a", "pi-b", "pi-c")
    tasks = [
        made.task(client, 400 * number + 10, (0, number), compute_s=100 + 7 * (number * place % 11))
        for number in range(1, 11)
        for place, client in enumerate(clients, 3)
    ]
    rounds = [made.one_round(number, 400 * number, 400 * number + 400) for number in range(1, 11)]
    found = made.dataset(tasks, rounds=rounds)
    told = account(found).rounds
    shown = made.read(write_trace(found, told, tmp_path / "trace.json").path)
    marked = {(each.args["round"], each.args["client"]) for each in shown.slices if each.name == "train (last)"}
    assert {client for _, client in marked} == set(clients)
    assert marked == set(told.select("round", "last").iter_rows())
    args = [each.args for each in shown.slices if each.thread == "rounds"]
    assert [(each["lost_s"], each["unaccounted_s"]) for each in args] == told.select("lost_s", "unaccounted_s").rows()


def test_the_server_is_the_first_host(kit: ModuleType, made: ModuleType, tmp_path: Path) -> None:
    """Whatever its name; trials are called after their conditions."""
    found = read_dataset(kit.FakeRun(tmp_path, kit.sweep([Constant(0.3)], 1, 3, lambda: 0.5)).write())
    shown = made.read(write_trace(found, found.rounds, tmp_path / "trace.json").path)
    first = next(event for event in shown.whole["traceEvents"] if event["name"] == "process_name")
    assert (first["pid"], first["args"]["name"]) == (1, "server")
    trials = [each.name for each in shown.slices if each.thread == "trials"]
    assert trials[0] == "trial 0: p = 0, d = 0.3 s"
    assert len(trials) == 6


MOMENTS = [name for name in TASKS.schema if name.endswith("_ns")]
STEP_TIMES = [name for name, kind in TASKS.schema.items() if kind is pl.Float64]


@st.composite
def any_task(draw: st.DrawFn) -> dict[str, Any]:
    """Whatever a damaged log, a wrong clock or a lost reply may leave: any moment, any time, anything unknown."""
    at = st.none() | st.integers(0, 60).map(lambda ns: 5_000_000_000 + ns)
    seconds = st.none() | st.integers(-5, 30).map(lambda ns: ns / 1e9) | st.sampled_from([float("nan"), float("inf")])
    row: dict[str, Any] = dict.fromkeys(TASKS.schema) | {"message": draw(st.text(max_size=3)), "kind": "train"}
    row |= {name: draw(at) for name in MOMENTS} | {name: draw(seconds) for name in STEP_TIMES}
    row |= {"trial": 0, "round": draw(st.integers(1, 2)), "client": draw(st.sampled_from(["pi-a", 'b"\n', "rounds"]))}
    return row | {"control": draw(st.none() | st.booleans()), "error": draw(st.none() | st.text(max_size=3))}


@settings(max_examples=40)
@given(tasks=st.lists(any_task(), max_size=6), limit=st.sampled_from([20, 500_000]))
def test_any_tasks_make_a_trace_that_can_be_opened(
    made: ModuleType, tmp_path_factory: pytest.TempPathFactory, tasks: list[dict[str, Any]], limit: int
) -> None:
    """Slices nest, arrows have two ends within slices, and the summary counts what the file holds."""
    tables = {
        "rounds": [made.one_round(1, 0, 1)],
        "phases": [made.phase("configure", 0, 1), made.phase("configure", 0, 2)],
    }
    traced(made, made.dataset(tasks, **tables), tmp_path_factory.mktemp("any"), limit=limit)
