"""Every figure of runs whose numbers are known: what is drawn, what can be chosen, what is said, what is left out."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl
import pytest
import vl_convert

from deploy.analysis.account.account import Account
from deploy.analysis.columns import CLIENTS, OFFSETS, PARTS, PHASES, ROUNDS, STRAGGLERS, TASKS, TRIPS
from deploy.analysis.figures import clocks, hosts, injection, learning, parts, render, spread, stragglers, timeline
from deploy.analysis.figures.catalogue import figures, main_figure
from deploy.analysis.figures.figure import ALL, MOST_CLIENTS, SHOWN, Figure, Span, labels, whole_numbers
from deploy.analysis.figures.palette import CAUSE_COLORS, DARK, LIGHT, PART_COLORS, SHARE_COLORS, steps
from deploy.analysis.figures.training import time_by_condition
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import analyse
from flcommon.delay import Constant, Delay
from flcommon.job import Stop

if TYPE_CHECKING:
    from types import ModuleType

    from deploy.analysis.statistics.conditions import Analysis

NS = 1_000_000_000
EVIL = "<b>o'k\"\\"


def rows(figure: Figure | None, layer: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of a figure, or of one of its layers."""
    assert figure is not None
    spec = figure.spec
    if layer is not None and "data" in spec["layer"][layer]:
        spec = spec["layer"][layer]
    if "data" in spec:
        found: list[dict[str, Any]] = figure.spec["datasets"][spec["data"]["name"]]
        return found
    return [row for each in figure.spec["datasets"].values() for row in each]


def drawn(figure: Figure) -> str:
    """Return the figure's svg: Vega draws it without complaint, with no number that is none."""
    svg: str = vl_convert.vegalite_to_svg(render.printed(figure), allowed_base_urls=[])
    assert "NaN" not in svg
    assert "undefined" not in svg
    return svg


def frame(table: Any, *given: dict[str, Any]) -> pl.DataFrame:
    """Return rows of a table, null where nothing is given."""
    return pl.DataFrame([dict.fromkeys(table.schema) | each for each in given], schema=table.schema)


def changed(analysis: Analysis, **frames: Any) -> Analysis:
    """Return the analysis with other frames in its data set."""
    return msgspec.structs.replace(analysis, dataset=msgspec.structs.replace(analysis.dataset, **frames))


def accounted(analysis: Analysis, **frames: Any) -> Analysis:
    return msgspec.structs.replace(analysis, account=Account(**frames))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> Analysis:
    """18 conditions, 2 repeats, 3 rounds, 3 clients."""
    rng = random.Random(1)  # noqa: S311 - noise for a picture
    sizes = [Constant(0.3), Constant(0.4), Constant(0.5)]
    trials = kit.sweep(sizes, 2, 3, lambda: rng.gauss(0, 1))
    return analyse(read_dataset(kit.FakeRun(tmp_path_factory.mktemp("sweep"), trials, whole=True).write()))


@pytest.fixture(scope="module")
def of_sweep(sweep: Analysis) -> tuple[Figure, ...]:
    """All its figures."""
    return figures(sweep)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> Analysis:
    """One condition without a delay, one round, three clients of one second, no accuracy."""
    trials = [kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0)])]
    return analyse(read_dataset(kit.FakeRun(tmp_path_factory.mktemp("single"), trials).write()))


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> Analysis:
    """20 conditions of 50 clients, one of them with a hard name, one round each."""
    clients = (EVIL, *(f"c{n:02}" for n in range(49)))
    works = {name: kit.Work(0.1 + 0.01 * n, 0.05, 0.0502) for n, name in enumerate(clients)}
    conditions = [(i, Delay(1.0, Constant(0.05 + i / 100))) for i in range(20)]
    trials = [kit.FakeTrial(kit.plan(i, delay), [kit.FakeRound(works, accuracy=0.5)]) for i, delay in conditions]
    return analyse(read_dataset(kit.FakeRun(tmp_path_factory.mktemp("crowd"), trials, clients, whole=True).write()))


def test_a_sweep_has_each_figure_once_and_figure_4_first(of_sweep: tuple[Figure, ...]) -> None:
    names = [each.name for each in of_sweep]
    assert names[0] == "figure-4"
    assert len(set(names)) == len(names)
    assert {
        "figure-account", "figure-hosts", "figure-stragglers", "figure-compute", "figure-accuracy-rounds",
        "figure-accuracy-time", "figure-injected", "figure-injected-difference", "figure-one-way", "figure-rtt",
        "figure-clocks", "figure-timeline",
    } <= set(names)  # fmt: skip
    for each in of_sweep:
        drawn(each)


@pytest.mark.parametrize("which", ["single", "crowd"])
def test_small_and_large_runs_are_drawn(which: str, request: pytest.FixtureRequest) -> None:
    """One client's second, or fifty clients with hard names: each figure that is there is drawn and told of."""
    for each in figures(request.getfixturevalue(which)):
        drawn(each)
        assert each.alt.startswith(each.title.partition(":")[0])
        assert each.caption.endswith(".")


def test_the_choice_of_a_condition_reaches_figures_whose_rows_have_one(
    sweep: Analysis, of_sweep: tuple[Figure, ...]
) -> None:
    """They know the signal, and their rows' conditions are labels that the page knows, or all."""
    known = {*labels(sweep).values(), ALL, None}
    for each in of_sweep:
        has = {row["condition"] for row in rows(each) if "condition" in row}
        params = {param["name"] for param in each.spec["params"]}
        assert has <= known, each.name
        assert (SHOWN in params) == bool(has), each.name


def test_a_chosen_condition_leaves_only_its_rows(sweep: Analysis) -> None:
    """Drawn with the signal set, the account has the bars of one condition, and not those of 18."""
    account = parts.account(sweep)
    assert account is not None
    name = labels(sweep)[7]
    params = [{"name": SHOWN, "value": name} if each["name"] == SHOWN else each for each in account.spec["params"]]
    one = msgspec.structs.replace(account, spec={**account.spec, "params": params})
    bars = 'aria-roledescription="bar"'
    assert drawn(account).count(bars) == 18 * drawn(one).count(bars)


def test_a_time_line_shows_one_trial_and_of_a_chosen_condition_its_first(sweep: Analysis) -> None:
    """Each trial has three rounds, which begin with a line."""
    figure = timeline.timeline(sweep)
    assert figure is not None
    follows = figure.spec["usermeta"][timeline.FOLLOWS]
    assert follows["values"] == {label: number for number, label in labels(sweep).items()}
    for trial in (1, 20):
        params = [
            {**each, "value": trial} if each["name"] == follows["signal"] else each for each in figure.spec["params"]
        ]
        svg = drawn(msgspec.structs.replace(figure, spec={**figure.spec, "params": params}))
        assert svg.count('aria-roledescription="rule mark"') == 3


def test_nothing_is_drawn_of_a_run_without_rounds(tmp_path: Any, kit: ModuleType) -> None:
    trials = [kit.FakeTrial(kit.plan(0), [], ended=False)]
    analysis = analyse(read_dataset(kit.FakeRun(tmp_path, trials).write()))
    assert main_figure(analysis) is None
    assert figures(analysis) == ()


def test_of_one_client_nobody_is_last_and_of_no_delay_none_is_drawn(tmp_path: Any, kit: ModuleType) -> None:
    trials = [kit.FakeTrial(kit.plan(0), [kit.FakeRound({"pi4-a": kit.Work(1.0)})])]
    names = {
        each.name
        for each in figures(analyse(read_dataset(kit.FakeRun(tmp_path, trials, ("pi4-a",), whole=True).write())))
    }
    assert {"figure-time", "figure-account", "figure-compute"} <= names
    assert not {"figure-stragglers", "figure-injected", "figure-accuracy-time"} & names


def test_what_was_measured_of_a_line_stands_beside_that_of_the_others(sweep: Analysis) -> None:
    """At p = 0.4 points, mean and interval of each of three lines share a place of their own; theory stays at its p."""
    figure = main_figure(sweep)
    told = [row for row in rows(figure) if row["p"] == 0.4]
    measured = [row for row in told if row.get("kind") != "theory"]
    places = {row["d"]: {each["at"] for each in measured if each["d"] == row["d"]} for row in measured}
    assert [len(each) for each in places.values()] == [1, 1, 1]
    (low,), (middle,), (high,) = places.values()
    assert (low + high) / 2 == pytest.approx(middle) == pytest.approx(0.4)
    assert 0.02 < middle - low < 0.1
    assert {row["at"] for row in told if row.get("kind") == "theory"} == {0.4}
    for layer in figure.spec["layer"] if figure else ():
        assert layer["encoding"]["x"]["field"] == "at"


def test_no_interval_of_times_is_drawn_below_zero(sweep: Analysis) -> None:
    """One that was cut there has no end there, and the caption says so."""
    for figure in (main_figure, time_by_condition):
        for low_s in (0.5, 0.0):
            lows = [msgspec.structs.replace(each, low_s=low_s) for each in sweep.conditions]
            found = figure(msgspec.structs.replace(sweep, conditions=tuple(lows)))
            assert found is not None
            ticks = drawn(found).count('aria-roledescription="tick"')
            assert ticks == 18 * (1 if low_s == 0 else 2) + 18 * (figure is time_by_condition)
            assert ("cut at 0" in found.caption) == (low_s == 0)
            assert min(_axis(drawn(found))) >= 0


def _axis(svg: str) -> list[float]:
    """Return the labels of an axis of seconds."""
    labels_ = re.search(r"Y-axis titled 'training time.*?values from (\S+) to (\S+?)[\"<]", svg) or re.search(
        r"X-axis titled 'training time.*?values from (\S+) to (\S+?)[\"<]", svg
    )
    assert labels_ is not None
    return [float(each.replace("\N{MINUS SIGN}", "-")) for each in labels_.groups()]


def test_points_are_told_apart_by_colour_and_by_shape(sweep: Analysis) -> None:
    figure = main_figure(sweep)
    assert figure is not None
    points = next(each for each in figure.spec["layer"] if each["mark"]["type"] == "point")
    assert points["encoding"]["shape"]["field"] == points["encoding"]["color"]["field"] == "d"


def _round(condition: int, number: int, **told: Any) -> dict[str, Any]:
    zeros = {f"{part}_s": 0.0 for part in PARTS}
    place = {"trial": condition, "round": number, "condition": condition, "repeat": 0, "control": False}
    return {**zeros, **place, "settling": False, "round_s": 1.0, **told}


def test_an_account_is_the_mean_of_rounds_and_keeps_what_is_negative(sweep: Analysis) -> None:
    """Settling rounds are left out, control rounds have a bar of their own, negative parts stay as they are."""
    told = [
        _round(0, 1, compute_s=9.0, settling=True),
        _round(0, 2, compute_s=0.9, unaccounted_s=0.1),
        _round(0, 3, compute_s=1.3, unaccounted_s=-0.3),
        _round(0, 4, compute_s=0.5, unaccounted_s=0.5, control=True),
    ]
    figure = parts.account(accounted(sweep, rounds=frame(ROUNDS, *told)))
    assert figure is not None
    found = {(row["row"], row["part"]): row["time_s"] for row in rows(figure)}
    first = labels(sweep)[0]
    assert found == pytest.approx(
        {
            (first, "compute"): 1.1, (first, "unaccounted"): -0.1,
            (parts.CONTROL, "compute"): 0.5, (parts.CONTROL, "unaccounted"): 0.5,
        }
    )  # fmt: skip
    for said in ("left of zero is negative", "In 1 control round nothing", "1 slower round at the start"):
        assert said in figure.caption
    assert "compute: 0.500 s to 1.100 s" in figure.alt
    drawn(figure)


def test_shares_of_hosts_are_means_in_each_condition_and_over_all(sweep: Analysis) -> None:
    """Over all: the mean of the rounds, not of the conditions."""
    shares = {"unaccounted_s": 0.0, "round_s": 1.0, "control": False, "client": "pc-c", "repeat": 0, "round": 1}
    told = [{**shares, "trial": n, "condition": n // 2, "compute_s": 0.1 * n} for n in range(3)]
    figure = parts.hosts(accounted(sweep, clients=frame(CLIENTS, *told)))
    found = {row["condition"]: row["time_s"] for row in rows(figure) if row["part"] == "compute"}
    names = labels(sweep)
    assert found == pytest.approx({ALL: 0.1, names[0]: 0.05, names[1]: 0.2})


def test_who_was_last_is_a_percentage_in_each_cell(sweep: Analysis) -> None:
    last = {"rounds": 8, "compute": 1, "injected": 0, "network": 0, "engine": 0, "lost_s": 0.5}
    told = [
        {**last, "condition": n, "client": name, "last": 2 * n + place, "share": (2 * n + place) / 8}
        for n in range(2)
        for place, name in enumerate(("pi4-a", "pc-c"))
    ]
    rounds = [_round(n, 1, last="pc-c") for n in range(2)]
    figure = stragglers.stragglers(accounted(sweep, stragglers=frame(STRAGGLERS, *told), rounds=frame(ROUNDS, *rounds)))
    assert figure is not None
    assert [row["percent"] for row in rows(figure)] == [0, 12, 25, 38]
    assert "pi4-a in 12 % of the rounds; pc-c in 25 % of the rounds" in figure.alt
    assert drawn(figure).count("last (%): 38") >= 1


def test_with_one_condition_each_round_shows_whom_it_waited_for(sweep: Analysis) -> None:
    told = [_round(0, n, last="pi4-b" if n % 2 else "pc-c", cause="network", lost_s=0.1) for n in range(1, 6)]
    figure = stragglers.stragglers(accounted(sweep, rounds=frame(ROUNDS, *told)))
    assert figure is not None
    assert [(row["last"], row["place"]) for row in rows(figure)][:2] == [("pi4-b", 1), ("pc-c", 2)]
    assert "pi4-b in 60 % of the rounds" in figure.alt
    assert drawn(figure).count('aria-roledescription="bar"') == 5


def test_boxes_are_the_quantiles_of_the_values() -> None:
    """0 to 100: each share is its percentage; the ticks are as many of the values as may be drawn."""
    values = pl.DataFrame({"host": "a", "condition": ALL, "value": [float(n) for n in range(101)]})
    lanes = spread.Lanes(values=values, hosts=["a"], title="t (s)", unit="s")
    (row,) = spread.summary(lanes).rows(named=True)
    assert [row[name] for name in spread.QUANTILES] == pytest.approx([5, 25, 50, 75, 95])
    assert (row["least"], row["most"], row["n"]) == (0, 100, 101)
    assert spread.medians(lanes) == "Medians, a 50 s."
    many = pl.DataFrame({"host": "a", "condition": ALL, "value": [float(n) for n in range(10_000)]})
    spec = spread.spec(spread.Lanes(values=many, hosts=["a"], title="t (s)", unit="s"))
    ticks = spec["datasets"][spec["layer"][0]["data"]["name"]]
    assert 0.9 * spread.TICKS <= len(ticks) <= spread.TICKS
    assert sum(row["value"] for row in ticks) / len(ticks) == pytest.approx(4999.5, rel=0.01)


def test_a_scale_is_logarithmic_only_where_times_span_decades() -> None:
    assert [Span(1, 20).log, Span(1, 40).log, Span(0, 40).log, Span(-1, 40).log] == [False, True, False, False]
    for span in (Span(0.5, 80), Span(0.4, 1100)):
        values = span.axis.to_dict()["values"]
        assert len(values) >= 3
        assert all(0.4 < value < 1100 for value in values)


def _task(**told: Any) -> dict[str, Any]:
    return {"trial": 0, "round": 1, "control": False, "message": "m", "client": "pi4-a", "kind": "train", **told}


def test_natural_times_one_way_leave_out_what_was_injected_and_what_is_flagged(single: Analysis) -> None:
    told = [
        _task(down_s=0.05, down_injected_s=0.04, up_s=0.003, up_injected_s=0.0, uncertainty_s=0.002, flags=""),
        _task(down_s=9.0, up_s=9.0, uncertainty_s=0.002, flags="resent; below uncertainty"),
    ]
    figure = hosts.one_way(changed(single, tasks=frame(TASKS, *told)))
    assert figure is not None
    boxes = [row for row in rows(figure) if "middle" in row and row["condition"] == ALL]
    assert {row["kind"]: row["middle"] for row in boxes} == pytest.approx({hosts.DOWN: 10.0, hosts.UP: 3.0})
    assert [(row["surely"], row["at_most"]) for row in boxes] == [pytest.approx((8, 12)), pytest.approx((1, 5))]
    assert "± 2 ms" in figure.caption
    drawn(figure)


def test_round_trips_are_natural_where_connections_are_idle(single: Analysis) -> None:
    trips = {"client": "pi4-a", "control": False}
    told = [
        {**trips, "source": "idle", "trial": 0, "rtt_ms": 45.0, "injected_ms": 40.0},
        {**trips, "source": "idle", "trial": 0, "rtt_ms": 99.0, "injected_ms": None},
        {**trips, "source": "before", "rtt_ms": 2.0, "injected_ms": 0.0},
    ]
    figure = hosts.round_trips(changed(single, trips=frame(TRIPS, *told)))
    boxes = {row["kind"]: row["middle"] for row in rows(figure) if "middle" in row and row["condition"] == ALL}
    assert boxes == pytest.approx({hosts.SOURCES["idle"]: 5.0, hosts.SOURCES["before"]: 2.0})


def test_injected_delays_show_how_far_they_were_off(single: Analysis) -> None:
    told = [_task(delay_requested_s=0.1 * n, delay_s=0.1 * n + 0.0005 * n) for n in range(4)]
    against, difference = injection.injected(changed(single, tasks=frame(TASKS, *told)))
    points = [row for row in rows(difference) if "requested_ms" in row]
    assert [row["difference_ms"] for row in points] == pytest.approx([0.5, 1.0, 1.5])
    assert "3 of 100 to 300 ms, off by +0.50 to +1.50 ms, in the median +1.00 ms" in difference.alt
    assert drawn(against).count('aria-roledescription="point"') == 3


def test_of_very_many_delays_the_worst_are_among_those_that_are_drawn(single: Analysis) -> None:
    wrong = [0.1 + (0.05 if n == 777 else n / 1e8) for n in range(6000)]
    tasks = frame(TASKS).clear()
    tasks = pl.DataFrame([_task(delay_requested_s=0.1, delay_s=each) for each in wrong], schema=tasks.schema)
    _, difference = injection.injected(changed(single, tasks=tasks))
    points = [row for row in rows(difference) if "requested_ms" in row]
    assert len(points) <= 1.2 * injection.MOST_POINTS
    assert max(row["difference_ms"] for row in points) == pytest.approx(50)
    assert "of 6000 points are drawn" in difference.caption


def test_clocks_are_drawn_without_their_drift(single: Analysis) -> None:
    """A clock that runs 5 ppm fast lies on a straight line; what is left of it is its band."""
    told = [
        {"client": name, "process": 0, "start_s": float(t), "offset_ms": 0.005 * t, "low_ms": 0.005 * t - 0.2,
         "high_ms": 0.005 * t + 0.2}
        for name in ("pi4-a", "pc-c") for t in range(50)
    ]  # fmt: skip
    figure = clocks.clocks(changed(single, offsets=frame(OFFSETS, *told)))
    assert figure is not None
    assert max(abs(row["offset_ms"]) for row in rows(figure) if "offset_ms" in row) < 1e-9
    assert "Drift taken out: +5 ppm." in figure.caption
    assert "pc-c: known to ± 0.2 ms" in figure.alt
    assert drawn(figure).count(">± 0.2 ms<") == 2
    drawn(figure)


def test_accuracy_is_the_mean_and_the_range_of_repeats(tmp_path: Any, kit: ModuleType) -> None:
    """Against time it stands at the end of its round; the target is a line."""
    stop = Stop("accuracy", 0.9)
    trials = [
        kit.FakeTrial(kit.plan(n, condition=0, repeat=n, stop=stop), [kit.simple_round(1.0 + n, accuracy=0.5 + n / 5)])
        for n in range(2)
    ]
    by_round, by_time = learning.accuracy(analyse(read_dataset(kit.FakeRun(tmp_path, trials).write())))
    (row,) = (each for each in rows(by_time) if "low" in each)
    assert (row["accuracy"], row["low"], row["high"], row["time_s"]) == pytest.approx((0.6, 0.5, 0.7, 1.5))
    assert "0.600 after 1.50 s" in by_time.alt
    assert "target, 0.9" in by_round.caption
    assert {"accuracy": 0.9} in rows(by_round)
    drawn(by_round)


def test_the_mean_of_trials_never_runs_back_in_time(tmp_path: Any, kit: ModuleType) -> None:
    """A trial of two slow rounds and one of four fast ones: the mean has two rounds, each trial has its own line."""
    trials = [
        kit.FakeTrial(kit.plan(n, condition=0, repeat=n), [kit.simple_round(s, accuracy=0.1 * r) for r in range(count)])
        for n, (count, s) in enumerate(((2, 10.0), (4, 1.0)))
    ]
    _, by_time = learning.accuracy(analyse(read_dataset(kit.FakeRun(tmp_path, trials).write())))
    means = [row["time_s"] for row in rows(by_time) if "low" in row]
    assert means == pytest.approx([5.5, 11.0])
    thin = [(row["trial"], row["time_s"]) for row in rows(by_time) if "low" not in row]
    assert thin == [(0, 10.0), (0, 20.0), (1, 1.0), (1, 2.0), (1, 3.0), (1, 4.0)]
    assert "all of them had" in by_time.subtitle
    assert drawn(by_time).count('aria-roledescription="line mark"') == 3


def test_a_line_has_few_moments_however_many_rounds(single: Analysis) -> None:
    told = [_round(0, n, since_s=float(n), accuracy=n / 1000) for n in range(1, 1001)]
    figure, _ = learning.accuracy(changed(single, rounds=frame(ROUNDS, *told)))
    numbers = [row["round"] for row in rows(figure)]
    assert len(numbers) <= learning.MOST_MOMENTS + 1
    assert (numbers[0], numbers[-1]) == (1, 1000)
    assert whole_numbers(1000)[0] == 1
    assert len(whole_numbers(1000)) <= 10


def test_a_time_line_tells_who_did_what_when(single: Analysis) -> None:
    """A life whose every step is known, and a client of whose log nothing is known but its reply."""
    known = _task(
        sent_ns=0, down_injected_s=0.1, received_ns=NS // 5, compute_started_ns=NS, compute_s=1.0, delay_s=0.5,
        delay_ended_ns=5 * NS // 2, reply_sent_ns=3 * NS, up_injected_s=0.0, reply_received_ns=4 * NS,
    )  # fmt: skip
    dark = _task(client="pc-c", message="n", sent_ns=NS, reply_received_ns=5 * NS)
    phase = {"trial": 0, "round": 1, "phase": "aggregate", "started_ns": 5 * NS, "ended_ns": 6 * NS, "duration_s": 1.0}
    rounds = frame(ROUNDS, _round(0, 1, started_ns=0, ended_ns=6 * NS))
    analysis = changed(single, tasks=frame(TASKS, known, dark), phases=frame(PHASES, phase), rounds=rounds)
    told = timeline.activities(analysis.dataset)
    assert {(row[2], row[3]): row[4:] for row in told.iter_rows()} == {
        ("pi4-a", "injected"): (2.0, 2.5), ("pi4-a", "network"): (3.0, 4.0), ("pi4-a", "compute"): (1.0, 2.0),
        ("pi4-a", "waiting"): (4.0, 5.0), ("pc-c", timeline.UNKNOWN): (1.0, 5.0), ("server", "server"): (5.0, 6.0),
    }  # fmt: skip
    assert told.filter(host="pi4-a", what="injected").rows()[0][4:] == (0.0, 0.1)
    figure = timeline.timeline(analysis)
    assert figure is not None
    assert "pi4-a network 1.10 s, compute 1.00 s, waiting 1.00 s, injected 0.60 s" in figure.alt
    drawn(figure)


def test_a_time_line_says_what_it_leaves_out(single: Analysis) -> None:
    """60 clients and 300 rounds are more than a browser can draw: the busiest clients, and the first rounds."""
    names = [f"c{n:02}" for n in range(60)]
    hosts_ = single.dataset.manifest.hosts
    manifest = msgspec.structs.replace(
        single.dataset.manifest, hosts={"server": hosts_["server"]} | dict.fromkeys(names, hosts_["pi4-a"])
    )
    tasks = pl.DataFrame(
        [
            _task(client=name, round=r, message=f"{r}-{name}", compute_started_ns=r * NS, compute_s=0.001 * (n + 1),
                  received_ns=r * NS)
            for r in range(1, 301) for n, name in enumerate(names)
        ],
        schema=TASKS.schema,
    )  # fmt: skip
    rounds = frame(ROUNDS, *(_round(0, r, started_ns=r * NS, ended_ns=(r + 1) * NS) for r in range(1, 301)))
    trial = msgspec.structs.replace(single.dataset.trials[0], rounds=single.dataset.trials[0].rounds * 300)
    figure = timeline.timeline(changed(single, tasks=tasks, rounds=rounds, manifest=manifest, trials=(trial,)))
    assert figure is not None
    assert len(rows(figure)) <= timeline.MOST_OF_TRIAL
    assert {row["host"] for row in rows(figure) if "host" in row} == set(names[-MOST_CLIENTS:])
    assert f"{MOST_CLIENTS} of 60 clients are shown" in figure.caption
    assert "of 300 rounds are drawn" in figure.caption


def test_colours_stand_out_from_both_papers() -> None:
    """No part of a round vanishes on white or on the dark page (contrast as WCAG defines it)."""
    fixed = {*PART_COLORS.values(), *SHARE_COLORS.values(), *CAUSE_COLORS.values(), *steps(6)}
    for color in fixed:
        for paper in (LIGHT.paper, DARK.paper):
            assert contrast(color, paper) > 1.6, (color, paper)
    assert len(set(PART_COLORS.values())) == len(PART_COLORS)
    assert len(set(steps(9))) == 9


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    parts_ = [byte / 255 for byte in bytes.fromhex(color.removeprefix("#"))]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts_)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
