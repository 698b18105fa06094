"""The plan: what follows from a playbook and the clients' names."""

from __future__ import annotations

from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.app import embedded
from deploy.links import assigned
from deploy.plan import Plan, learning_seed, make_plan
from deploy.playbook import Playbook, load_playbook
from deploy.settings import Condition, Data, Settings
from flcommon.delay import Constant, Delay
from flcommon.job import AppRef, Shaping, Tls, Transport
from flcommon.link import Chance, Link, Step, Steps, Switching, Way, course_of

REPOSITORY = Path(__file__).parents[3]
Order = Literal["shuffled", "listed"]
CLIENTS = ["pi-b", "pi-a", "pc"]


def playbook(
    conditions: list[dict[str, Any]], *, repeats: int = 1, order: Order = "shuffled", seed: int = 1
) -> Playbook:
    return Playbook(
        file=Path("book.yaml"),
        playbook="book",
        app=embedded("flclient.apps.payload"),
        seed=seed,
        repeats=repeats,
        pull_every_s=60.0,
        warmup_rounds=1,
        order=order,
        sweep={},
        conditions=tuple(Condition(values=values, settings=Settings(rounds=2)) for values in conditions),
        resolved={},
    )


def grid(delays: int, others: int, links: int = 1) -> list[dict[str, Any]]:
    return [
        {"delay.seconds": d, "run_config.lr": x, "link.up.delay_ms": y}
        for d in range(delays)
        for x in range(others)
        for y in range(links)
    ]


BOOKS = st.builds(
    lambda delays, others, links, repeats, order, seed: playbook(
        grid(delays, others, links), repeats=repeats, order=order, seed=seed
    ),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from(["shuffled", "listed"]),
    st.integers(0, 2**63 - 1),
)


@given(BOOKS)
def test_every_condition_runs_once_in_every_repeat(book: Playbook) -> None:
    trials = make_plan(book, CLIENTS).trials
    pairs = sorted((trial.repeat, trial.condition) for trial in trials)
    assert pairs == [(r, c) for r in range(book.repeats) for c in range(len(book.conditions))]


@given(BOOKS)
def test_repeats_are_blocks(book: Playbook) -> None:
    """A lab that drifts, or a campaign cut short, must not have run one condition more often than another."""
    trials = make_plan(book, CLIENTS).trials
    assert [repeat for repeat, _ in groupby(trials, key=lambda trial: trial.repeat)] == list(range(book.repeats))


@given(BOOKS)
def test_the_index_does_not_depend_on_the_order(book: Playbook) -> None:
    for trial in make_plan(book, CLIENTS).trials:
        assert trial.index == trial.repeat * len(book.conditions) + trial.condition
        assert trial.settings == book.conditions[trial.condition].values


@given(BOOKS)
def test_listed_means_as_listed(book: Playbook) -> None:
    plan = make_plan(book, CLIENTS)
    listed = [trial.index for trial in plan.trials] == list(range(len(plan.trials)))
    assert listed or book.order == "shuffled"


@given(BOOKS)
def test_trials_share_a_schedule_if_only_other_keys_differ(book: Playbook) -> None:
    """Two strategies or data sets see the same delays and links; two repeats, two delays, or two links do not."""
    trials = make_plan(book, CLIENTS).trials
    injected = [(trial.repeat, trial.settings["delay.seconds"], trial.settings["link.up.delay_ms"]) for trial in trials]
    pairs = {(trial.schedule, what) for trial, what in zip(trials, injected, strict=True)}
    assert len(pairs) == len({schedule for schedule, _ in pairs}) == len(set(injected))


@given(BOOKS)
def test_the_learning_seed_is_that_of_the_repeat(book: Playbook) -> None:
    """Conditions of a repeat are paired: they start from the same weights."""
    trials = make_plan(book, CLIENTS).trials
    assert {(x.repeat, x.seed) for x in trials} == {(r, learning_seed(book.seed, r)) for r in range(book.repeats)}
    assert all(0 <= trial.seed < 2**31 for trial in trials)
    assert len({trial.seed for trial in trials}) == book.repeats


@given(BOOKS, st.integers(1, 9))
def test_the_order_depends_on_the_seed_alone(book: Playbook, clients: int) -> None:
    """Not on the clients, and not on what is swept."""
    other = playbook(
        [{"rounds": i} for i in range(len(book.conditions))],
        repeats=book.repeats,
        order=book.order,
        seed=book.seed,
    )
    first, second = make_plan(book, CLIENTS), make_plan(other, [f"c{i}" for i in range(clients)])
    assert [trial.index for trial in first.trials] == [trial.index for trial in second.trials]


def test_the_order_is_shuffled_anew_for_each_seed_and_repeat() -> None:
    def orders(seed: int) -> list[tuple[int, ...]]:
        trials = make_plan(playbook(grid(6, 3), repeats=3, seed=seed), CLIENTS).trials
        return [tuple(trial.condition for trial in trials[i : i + 18]) for i in (0, 18, 36)]

    assert len({*orders(1), *orders(2)}) == 6


def test_the_stream_of_orders_and_seeds_is_frozen() -> None:
    """A release that changes these numbers changes published campaigns: say so in the changelog."""
    plan = make_plan(playbook(grid(3, 2), repeats=2, seed=7), CLIENTS)
    assert [trial.index for trial in plan.trials] == [5, 1, 2, 4, 0, 3, 8, 10, 7, 11, 6, 9]
    assert [learning_seed(7, repeat) for repeat in range(3)] == [2083679832, 369571992, 1009178997]


@pytest.fixture
def plan() -> Plan:
    return make_plan(load_playbook(REPOSITORY / "playbooks" / "paper.yaml"), CLIENTS)


def test_the_run_config_is_complete(plan: Plan) -> None:
    trial = plan.trials[0]
    assert trial.run_config == {
        "lr": 0.001,
        "momentum": 0.9,
        "batch-size": 32,
        "local-epochs": 1,
        "data.set": "cifar10",
        "data.partition": "full",
        "seed": trial.seed,
        "num-server-rounds": 10,
    }


def test_all_of_data_goes_to_the_app() -> None:
    data = Data(set="digits", partition="dirichlet", alpha=0.5, path="/data")
    condition = Condition(values={}, settings=Settings(rounds=1, data=data))
    book = msgspec.structs.replace(playbook([{}]), conditions=(condition,))
    config = make_plan(book, ["a"]).trials[0].run_config
    assert {key: value for key, value in config.items() if key.startswith("data.")} == {
        "data.set": "digits",
        "data.partition": "dirichlet",
        "data.alpha": 0.5,
        "data.path": "/data",
    }


def test_the_servers_job(plan: Plan) -> None:
    job = plan.server_job("c1", host="server", listen="0.0.0.0:8080")
    assert (job.campaign, job.host, job.listen, job.clients) == ("c1", "server", "0.0.0.0:8080", tuple(CLIENTS))
    assert job.app == AppRef("flclient.apps.cifar10.client_app:app", "flclient.apps.cifar10.server_app:app")
    for planned, trial in zip(plan.trials, job.trials, strict=True):
        assert (trial.index, trial.seed, trial.rounds, trial.stop) == (planned.index, planned.seed, 10, planned.stop)
        assert trial.run_config == planned.run_config


def test_a_clients_job(plan: Plan) -> None:
    job = plan.client_job("c1", host="pi-a", server_address="192.0.2.10:8080")
    assert (job.campaign, job.host, job.server_address, job.delay_seed) == ("c1", "pi-a", "192.0.2.10:8080", 1)
    assert job.node_config == {"partition-id": 1, "num-partitions": 3}
    for planned, trial in zip(plan.trials, job.trials, strict=True):
        assert (trial.index, trial.seed, trial.schedule) == (planned.index, planned.seed, planned.schedule)
        assert (trial.delay, trial.run_config) == (planned.delay, planned.run_config)


def test_a_stranger_has_no_job(plan: Plan) -> None:
    with pytest.raises(ValueError, match="no client 'stranger'"):
        plan.client_job("c1", host="stranger", server_address="a:1")


def test_the_expected_delay_is_that_of_the_theory(plan: Plan) -> None:
    """R · d · (1 - (1 - p)^N), summed: 3 repeats · 10 rounds · (3 + 4 + 5) s · (0 + .488 + .784 + .936 + .992 + 1)."""
    assert plan.expected_injected_s() == pytest.approx(30 * 12 * 4.2)


def test_without_delays_nothing_is_injected() -> None:
    assert make_plan(playbook([{}]), CLIENTS).expected_injected_s() == 0


def test_a_zero_probability_is_still_a_delay() -> None:
    assert Delay(0.0, Constant(3.0)).expected_slowest_s(3) == 0


@pytest.mark.parametrize("clients", [[], ["a", "a"]])
def test_clients_must_differ(clients: list[str]) -> None:
    with pytest.raises(ValueError, match="different names"):
        make_plan(playbook([{}]), clients)


def test_the_warm_up_is_the_first_trial_without_its_delay() -> None:
    """It has its own number of rounds, no delay and no target, and the app learns its number of rounds too."""
    plan = make_plan(playbook(grid(2, 1), repeats=1), CLIENTS)
    job = plan.client_job("c", host=CLIENTS[0], server_address="192.0.2.1:8080")
    server = plan.server_job("c", host="server", listen="192.0.2.1:8080")
    assert server.warmup is not None
    assert (server.warmup.index, server.warmup.rounds, server.warmup.stop) == (-1, 1, None)
    assert server.warmup.run_config == {**server.trials[0].run_config, "num-server-rounds": 1}
    assert job.warmup is not None
    assert job.warmup.delay is None


def test_no_warm_up_if_none_is_asked_for() -> None:
    book = msgspec.structs.replace(playbook(grid(2, 1), repeats=1), warmup_rounds=0)
    assert make_plan(book, CLIENTS).server_job("c", host="server", listen="192.0.2.1:8080").warmup is None


def test_every_job_has_the_playbooks_transport() -> None:
    """And the credentials that it is given: none, unless TLS is on."""
    transport = Transport(keepalive_s=1, rejoin_timeout_s=7)
    plan = make_plan(msgspec.structs.replace(playbook([{}]), transport=transport), CLIENTS)
    tls = Tls(key="/k", certificate="c", authority="a", server_name="hub")
    for own in (tls, None):
        server = plan.server_job("c", host="server", listen="192.0.2.1:8080", tls=own)
        client = plan.client_job("c", host=CLIENTS[0], server_address="192.0.2.1:8080", tls=own)
        assert [(job.transport, job.tls) for job in (server, client)] == [(transport, own)] * 2


# --- links -----------------------------------------------------------------------------------------------------------

LINKS = """\
playbook: book
app: flclient.apps.payload
rounds: 10
delay: {probability: 0.5, seconds: 3}
link: {rate_mbit: 10}
hosts:
  - {match: {name: pc}, link: {switching: {good: {mean_s: 5}, bad: {mean_s: 1, delay_ms: 50}}, layer: relay}}
control: every 5 rounds
sample_every_s: 0.5
probe: off
sweep: {link.delay_ms: [0, 20], run_config.payload-bytes: [1, 2]}
repeats: 2
"""


def loaded(tmp_path: Path, text: str = LINKS) -> Plan:
    (tmp_path / "book.yaml").write_text(text)
    book = load_playbook(tmp_path / "book.yaml")
    rules = assigned(book.hosts, {name: {} for name in CLIENTS})
    return make_plan(book, CLIENTS, rules, {"pc": Shaping(layer="relay"), "pi-a": Shaping(layer="kernel")})


def courses(plan: Plan, client: str) -> dict[tuple[int, int], list[Step]]:
    """Return what a client's link does first, by condition and repeat, as the client draws it from its job."""
    job = plan.client_job("c1", host=client, server_address="192.0.2.1:8080")
    places = {trial.index: (trial.condition, trial.repeat) for trial in plan.trials}
    return {
        places[trial.index]: list(islice(course_of(trial.link, Chance(job.delay_seed, client, trial.schedule)), 20))
        for trial in job.trials
        if trial.link is not None
    }


def test_a_rule_replaces_the_playbooks_link(tmp_path: Path) -> None:
    """For the clients that match; what is swept of the link does not reach them."""
    for trial in loaded(tmp_path).trials:
        assert list(trial.links) == CLIENTS
        assert isinstance(trial.links["pc"].course, Switching)
        way = Way(delay_ms=trial.settings["link.delay_ms"], rate_mbit=10)
        assert trial.links["pi-a"] == trial.links["pi-b"] == Link(course=Steps(steps=(Step(up=way, down=way),)))


def test_the_jobs_carry_what_concerns_links(tmp_path: Path) -> None:
    """Each client its own link and layer; everybody control rounds and samples; the server whether to probe."""
    plan = loaded(tmp_path)
    server = plan.server_job("c1", host="server", listen="192.0.2.1:8080")
    assert (server.probe, server.sample_every_s, {trial.control_every for trial in server.trials}) == (False, 0.5, {5})
    for name in CLIENTS:
        job = plan.client_job("c1", host=name, server_address="192.0.2.1:8080")
        assert (job.shaping, job.sample_every_s) == (plan.shaping.get(name), 0.5)
        assert [trial.link for trial in job.trials] == [trial.links[name] for trial in plan.trials]
        assert {trial.control_every for trial in job.trials} == {5}
        assert (job.warmup.link, job.warmup.delay, job.warmup.control_every) == (None, None, 0)  # type: ignore[union-attr]


def test_a_course_is_the_same_for_every_order_and_strategy(tmp_path: Path) -> None:
    """And whenever the seed is the same; another seed, repeat, client or swept link gives another."""
    drawn = courses(loaded(tmp_path), "pc")
    assert drawn == courses(loaded(tmp_path, LINKS + "order: listed\n"), "pc")
    assert drawn[0, 0] == drawn[1, 0]  # two sizes of the payload
    others = [drawn[0, 0], drawn[0, 1], drawn[2, 0], courses(loaded(tmp_path, LINKS + "seed: 2\n"), "pc")[0, 0]]
    everywhere = LINKS.replace("match: {name: pc}", "match: {name: pi-b}")
    others.append(courses(loaded(tmp_path, everywhere), "pi-b")[0, 0])
    assert len({tuple(step.at_s for step in one) for one in others}) == len(others)


def test_control_rounds_have_no_delay_to_expect(tmp_path: Path) -> None:
    """Of ten rounds two are without."""
    without = loaded(tmp_path, LINKS.replace("control: every 5 rounds\n", ""))
    assert loaded(tmp_path).expected_injected_s() == pytest.approx(without.expected_injected_s() * 0.8)


def test_without_links_nothing_is_shaped() -> None:
    """And a campaign of an older playbook is what it was."""
    plan = make_plan(playbook(grid(2, 1)), CLIENTS)
    job = plan.client_job("c1", host="pc", server_address="192.0.2.1:8080")
    assert (job.shaping, {trial.link for trial in job.trials}) == (None, {None})
