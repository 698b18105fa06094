"""Links in playbooks: what they become, and what a user reads when they are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import InputError
from deploy.links import SETTABLE, Rule, assigned
from deploy.linktrace import MOST_STEPS
from deploy.playbook import Playbook, load_playbook
from flcommon.link import NATURAL, Burst, Link, State, Step, Steps, Switching, Way

if TYPE_CHECKING:
    from pathlib import Path

BOOK = """\
playbook: book
app: flclient.apps.payload
rounds: 10
link: {delay_ms: 20, jitter_ms: 5}
sweep: {link.rate_mbit: [null, 10]}
hosts:
  - {match: {net: wifi}, link: {loss_pct: 1}}
control: every 5 rounds
"""
LINK = "link: {delay_ms: 20, jitter_ms: 5}"
SWEEP = "sweep: {link.rate_mbit: [null, 10]}"
RULE = "  - {match: {net: wifi}, link: {loss_pct: 1}}"
CONTROL = "control: every 5 rounds"
LABELS = {"pi-a": {"net": "wifi", "board": "pi4"}, "pi-b": {"net": "wifi", "board": "pi5"}, "pc": {"net": "lan"}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("links") / "book.yaml"


def load(file: Path, text: str) -> Playbook:
    file.write_text(text)
    return load_playbook(file)


def changed(old: str, new: str) -> str:
    assert BOOK.count(old) == 1
    return BOOK.replace(old, new)


def linked(file: Path, link: str) -> Link:
    """Return what a section `link` becomes, without a sweep."""
    (condition,) = load(file, f"playbook: p\napp: flclient.apps.payload\nrounds: 1\nlink: {link}\n").conditions
    assert condition.settings.link is not None
    return condition.settings.link.link


def refusal(file: Path, text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load(file, text)
    return caught.value


def outcome(file: Path) -> str:
    try:
        load_playbook(file)
    except InputError as error:
        return str(error)
    return "loaded"


def steady(up: Way, down: Way) -> Link:
    return Link(course=Steps(steps=(Step(up=up, down=down),)))


# --- what it becomes -------------------------------------------------------------------------------------------------


def test_flat_keys_are_both_directions(file: Path) -> None:
    way = Way(delay_ms=20, jitter_ms=5, distribution="normal", loss_burst=Burst(p_pct=1, r_pct=20), rate_mbit=5)
    text = "{delay_ms: 20, jitter_ms: 5, distribution: normal, loss_burst: {p_pct: 1, r_pct: 20}, rate_mbit: 5}"
    assert linked(file, text) == steady(way, way)


def test_one_direction_leaves_the_other_natural(file: Path) -> None:
    assert linked(file, "{down: {rate_mbit: 5}}") == steady(NATURAL, Way(rate_mbit=5))
    assert linked(file, "{up: {delay_ms: 1}, down: {}}") == steady(Way(delay_ms=1), NATURAL)


def test_no_delay_is_a_link_all_the_same(file: Path) -> None:
    """It is shaped like the others of its sweep, and asks for nothing."""
    assert linked(file, "{delay_ms: 0}") == steady(NATURAL, NATURAL)


def test_steps_and_their_names(file: Path) -> None:
    text = "{steps: [{at_s: 0, delay_ms: 5}, {at_s: 30, up: {loss_pct: 5}, state: tunnel}, {at_s: 40.5}]}"
    five = Way(delay_ms=5)
    assert linked(file, text).course == Steps(
        steps=(
            Step(up=five, down=five),
            Step(at_s=30, state="tunnel", up=Way(loss_pct=5)),
            Step(at_s=40.5),
        )
    )


def test_states_in_the_order_of_the_file(file: Path) -> None:
    """It begins in the first."""
    course = linked(file, "{switching: {good: {mean_s: 20}, bad: {mean_s: 5, down: {rate_mbit: 1}}}}").course
    assert isinstance(course, Switching)
    assert list(course.states.items()) == [
        ("good", State(mean_s=20)),
        ("bad", State(mean_s=5, down=Way(rate_mbit=1))),
    ]


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("time_s,delay_ms,rate_mbit\n0,1,\n# gap\n\n1.5 , 2e1,10 # slow\r\n", (Way(delay_ms=20, rate_mbit=10),) * 2),
        ("rate_mbit,time_s\n1,0\n2,0.1\n", (Way(rate_mbit=2),) * 2),
        (
            "time_s,up_delay_ms,up_loss_pct,down_rate_mbit\n0,0,0,1\n9,3,4,5\n",
            (Way(delay_ms=3, loss_pct=4), Way(rate_mbit=5)),
        ),
    ],
)
def test_a_trace_becomes_steps(file: Path, text: str, second: tuple[Way, Way]) -> None:
    """And so it is kept in the manifest: whoever repeats the run needs no file."""
    (file.parent / "x.csv").write_text(text)
    course = linked(file, "{trace: {file: x.csv}, layer: relay}").course
    assert isinstance(course, Steps)
    assert (course.steps[1].up, course.steps[1].down) == second
    book = load(file, changed(RULE, "  - {match: {name: pc}, link: {trace: {file: x.csv}}}"))
    assert [rule.asked.link.course for rule in book.hosts] == [course]
    again = load(file.with_name("again.yaml"), msgspec.json.encode(book.resolved).decode())
    assert ([rule.asked for rule in again.hosts], again.resolved) == ([x.asked for x in book.hosts], book.resolved)


def test_a_sweep_fills_in_the_link(file: Path) -> None:
    """A value of null takes a limit away; the layer is the section's."""
    book = load(file, changed(LINK, "link: {delay_ms: 20, rate_mbit: 5, layer: kernel}"))
    asked = [condition.settings.link for condition in book.conditions]
    assert [one.layer for one in asked if one] == ["kernel", "kernel"]
    expected = (Way(delay_ms=20), Way(delay_ms=20, rate_mbit=10))
    assert [one.link for one in asked if one] == [steady(way, way) for way in expected]


@pytest.mark.parametrize("key", SETTABLE)
def test_every_settable_key_can_be_swept_alone(file: Path, key: str) -> None:
    """Without a section too; jitter needs a delay beside it."""
    place, _, name = key.rpartition(".")
    beside = f"{place}.delay_ms: [3], " if name == "jitter_ms" else ""
    text = f"playbook: p\napp: flclient.apps.payload\nrounds: 1\nsweep: {{{beside}{key}: [1, 2]}}\n"
    found = [condition.settings.link for condition in load(file, text).conditions]
    for value, asked in zip((1, 2), found, strict=True):
        assert asked is not None
        way = Way(**{name: value}) if not beside else Way(delay_ms=3, jitter_ms=value)
        assert asked.link.ways == (NATURAL if "down" in key else way, NATURAL if "up" in key else way)


def test_parts_that_only_fit_together(file: Path) -> None:
    """What is wrong in a section alone may be right in every condition."""
    text = changed(LINK, "link: {jitter_ms: 5}").replace("link.rate_mbit: [null, 10]", "link.delay_ms: [5, 10]")
    assert len(load(file, text).conditions) == 2


def test_the_rest_of_the_network_section(file: Path) -> None:
    book = load(file, BOOK + "probe: off\nsample_every_s: 0.5\n")
    assert (book.control_every, book.probe, book.sample_every_s) == (5, False, 0.5)
    plain = load(file, "playbook: p\napp: flclient.apps.payload\nrounds: 1\n")
    assert (plain.control_every, plain.probe, plain.sample_every_s, plain.hosts) == (0, True, 1.0, ())


# --- what cannot be --------------------------------------------------------------------------------------------------

WRONG_LINKS = [
    ("{loss_pct: 150}", "link.loss_pct", ["from 0 to 100, not 150"]),
    ("{rate_mbit: -5}", "link.rate_mbit", ["from 0.01 to 100000, not -5"]),
    ("{rate_mbit: 0}", "link.rate_mbit", ["from 0.01"]),
    ("{delay_ms: 20ms}", "link.delay_ms", ["must be a number from 0 to 60000, not '20ms'"]),
    ("{delay_ms: }", "link.delay_ms", ["must be a number", "not empty"]),
    ("{delay_ms: 5, jitter_ms: 6}", "link", ["jitter_ms (6) must not be above delay_ms (5)"]),
    ("{up: {jitter_ms: 6}}", "link.up", ["jitter_ms (6) must not be above delay_ms (0)"]),
    ("{delay: 5}", "link.delay", ["unknown key; did you mean delay_ms?", "layer, delay_ms", "up, down, steps, trace"]),
    ("{up: {delay: 5}}", "link.up.delay", ["unknown key; did you mean delay_ms?"]),
    ("{layer: kernal, delay_ms: 5}", "link.layer", ["one of auto, kernel, relay, not 'kernal'; did you mean kernel?"]),
    ("{layer: relay}", "link", ["asks for nothing", "delay_ms: 0"]),
    ("{}", "link", ["asks for nothing"]),
    ("fast", "link", ["must be a mapping (key: value), not 'fast'"]),
    ("{delay_ms: 5, up: {}}", "link.delay_ms", ["the same thing is said twice", "gives both directions", "up too"]),
    ("{delay_ms: 5, steps: []}", "link.delay_ms", ["the same thing is said twice", "steps gives the whole link"]),
    ("{up: {}, trace: {file: x}}", "link.up", ["the same thing is said twice", "trace gives the whole link"]),
    ("{steps: [], switching: {}}", "link.steps", ["the same thing is said twice"]),
    ("{loss_pct: 1, loss_burst: {p_pct: 1, r_pct: 1}}", "link", ["said twice: loss_pct and loss_burst"]),
    ("{loss_burst: {p_pct: 1}}", "link.loss_burst.r_pct", ["is missing"]),
    ("{loss_burst: 3}", "link.loss_burst", ["must be a mapping", "not 3"]),
    ("{distribution: gauss, delay_ms: 1}", "link.distribution", ["one of", "normal", "not 'gauss'"]),
    ("{reorder_pct: 1}", "link", ["reorder_pct needs a delay_ms"]),
    ("{duplicate_pct: 1, layer: relay}", "link.layer", ["a relay, which ends TCP, cannot play duplicate_pct"]),
    ("{steps: []}", "link.steps", ["is empty"]),
    ("{steps: 3}", "link.steps", ["must be a list [a, b, …], not 3"]),
    ("{steps: [{at_s: 3}]}", "link.steps[0].at_s", ["the first step must be at 0 s", "not 3"]),
    ("{steps: [{delay_ms: 3}]}", "link.steps[0].at_s", ["is missing"]),
    ("{steps: [{at_s: 0}, {at_s: 5}, {at_s: 5}]}", "link.steps[2].at_s", ["at least 0.1 s after", "5 follows 5"]),
    ("{steps: [{at_s: 0}, {at_s: -1}]}", "link.steps[1].at_s", ["from 0 to 86400, not -1"]),
    ("{steps: [{at_s: 0, delay: 3}]}", "link.steps[0].delay", ["unknown key", "known keys: at_s, state, delay_ms"]),
    ("{steps: [{at_s: 0, delay_ms: 1, up: {}}]}", "link.steps[0].delay_ms", ["said twice"]),
    ("{steps: [{at_s: 0, state: a b}]}", "link.steps[0].state", ["letters, digits"]),
    ("{switching: {good: {mean_s: 3}}}", "link.switching", ["at least two states"]),
    ("{switching: [a, b]}", "link.switching", ["must be a mapping"]),
    ("{switching: {good: {}, bad: {mean_s: 3}}}", "link.switching.good.mean_s", ["is missing"]),
    ("{switching: {a: {mean_s: 0}, b: {mean_s: 3}}}", "link.switching.a.mean_s", ["from 0.1 to 86400, not 0"]),
    ("{switching: {a: {mean_s: 1, x: 1}, b: {mean_s: 3}}}", "link.switching.a.x", ["unknown key"]),
    ("{switching: {a b: {mean_s: 1}, b: {mean_s: 3}}}", "link.switching.a b", ["must be letters, digits"]),
    ("{trace: x.csv}", "link.trace", ["must be a mapping"]),
    ("{trace: {}}", "link.trace", ["a trace needs a file", "time_s"]),
    ("{trace: {file: 3}}", "link.trace.file", ["the path of a CSV file, not 3"]),
    ("{trace: {file: no.csv}}", "link.trace.file", ["no.csv: no such file"]),
    ("{trace: {file: a.csv, repeat: true}}", "link.trace.repeat", ["unknown key"]),
]


@pytest.mark.parametrize(("link", "key", "words"), WRONG_LINKS, ids=[f"{key}-{link}" for link, key, _ in WRONG_LINKS])
def test_a_link_that_cannot_be(file: Path, link: str, key: str, words: list[str]) -> None:
    """Every error names file, line and dotted key, and says what would be right; the same in a rule of `hosts`."""
    alone = f"playbook: p\napp: flclient.apps.payload\nrounds: 1\nlink: {link}\n"
    rule = f"playbook: p\napp: flclient.apps.payload\nrounds: 1\nhosts:\n  - match: {{name: pc}}\n    link: {link}\n"
    for text, line, place in ((alone, 4, key), (rule, 6, f"hosts[0].{key}")):
        error = refusal(file, text)
        assert (error.file, error.line, error.key) == (file, line, place)
        for word in words:
            assert word in str(error)


WRONG_BOOKS = [
    (SWEEP, "sweep: {link.rate_mbit: [1, -3]}", 5, "sweep.link.rate_mbit[1]", ["from 0.01", "not -3"]),
    (SWEEP, "sweep: {link.delay_ms: [4, 20]}", 5, "sweep.link.delay_ms[0]", ["jitter_ms (5)", "above delay_ms (4)"]),
    (SWEEP, "sweep: {link.jitter_ms: [1, 21]}", 5, "sweep.link.jitter_ms[1]", ["jitter_ms (21) must not be above"]),
    (SWEEP, "sweep: {link.up.delay_ms: [1]}", 5, "sweep.link.up.delay_ms[0]", ["the same thing is said twice"]),
    (SWEEP, "sweep: {link.delay: [1]}", 5, "sweep.link.delay", ["cannot be swept; did you mean link.delay_ms?"]),
    (SWEEP, "sweep: {link.layer: [kernel]}", 5, "sweep.link.layer", ["cannot be swept"]),
    (SWEEP, "sweep: {hosts: [1]}", 5, "sweep.hosts", ["cannot be swept"]),
    (LINK, "link: {steps: [{at_s: 0}]}", 5, "sweep.link.rate_mbit[0]", ["said twice: steps gives the whole link"]),
    (LINK, "link: {up: {}}", 5, "sweep.link.rate_mbit[0]", ["said twice: rate_mbit gives both directions", "up too"]),
    (LINK, "link: {dealy_ms: 3}", 4, "link.dealy_ms", ["did you mean delay_ms?"]),
    (RULE, "  []", 6, "hosts", ["is empty"]),
    (RULE, "  {match: {net: wifi}}", 6, "hosts", ["must be a list"]),
    (RULE, "  - {match: {net: wifi}}", 7, "hosts[0].link", ["is missing"]),
    (RULE, "  - {link: {loss_pct: 1}}", 7, "hosts[0].match", ["is missing"]),
    (RULE, "  - {match: {}, link: {loss_pct: 1}}", 7, "hosts[0].match", ["matches every client"]),
    (RULE, "  - {match: {board: 4}, link: {loss_pct: 1}}", 7, "hosts[0].match.board", ["text, not 4", "quotes"]),
    (RULE, "  - {match: {a: b}, links: {}}", 7, "hosts[0].links", ["did you mean link?"]),
    (CONTROL, "control: sometimes", 8, "control", ["every K rounds, with K from 2 to 9999, not 'sometimes'"]),
    (CONTROL, "control: every 1 rounds", 8, "control", ["K from 2", "not 'every 1 rounds'"]),
    (CONTROL, "control: 5", 8, "control", ["every K rounds"]),
    (CONTROL, "control: every 11 rounds", 8, "control", ["a trial of 10 rounds has no control round"]),
    (CONTROL, "probe: maybe", 8, "probe", ["must be true or false, not 'maybe'"]),
    (CONTROL, "sample_every_s: 0.01", 8, "sample_every_s", ["0 (never) or 0.1 and more"]),
    (CONTROL, "sample_every_s: -1", 8, "sample_every_s", ["from 0 to 3600, not -1"]),
]


@pytest.mark.parametrize("case", WRONG_BOOKS, ids=lambda case: f"{case[3]}-{case[1]}")
def test_a_playbook_that_cannot_be(file: Path, case: tuple[str, str, int, str, list[str]]) -> None:
    """In a sweep, the error points at the value that makes a condition wrong."""
    old, new, line, key, words = case
    error = refusal(file, changed(old, new))
    assert (error.file, error.line, error.key) == (file, line, key)
    for word in words:
        assert word in str(error)


SLOW = [
    ("link: {delay_ms: 2000, jitter_ms: 600}\n", 4, "link", "up to 5.2 s"),
    ("hosts: [{match: {a: b}, link: {down: {delay_ms: 5000}}}]\n", 4, "hosts[0].link", "up to 5 s"),
    ("sweep: {link.up.delay_ms: [1, 5001]}\n", 4, "sweep.link.up.delay_ms", "up to 5.001 s"),
    ("link: {steps: [{at_s: 0}, {at_s: 9, delay_ms: 3000}]}\n", 4, "link", "up to 6 s"),
    ("link: {delay_ms: 60000}\ntransport: {keepalive_timeout_s: 121}\n", 0, "", ""),
]


@pytest.mark.parametrize(("text", "line", "key", "words"), SLOW)
def test_a_link_slower_than_the_patience_of_a_connection(
    file: Path, text: str, line: int, key: str, words: str
) -> None:
    """Every connection would be given up: refused before the start, unless the transport waits for longer."""
    text = "playbook: p\napp: flclient.apps.payload\nrounds: 1\n" + text
    if not key:
        assert load(file, text).conditions
        return
    error = refusal(file, text)
    assert (error.line, error.key) == (line, key)
    assert f"a round trip would take {words}" in str(error)
    assert "raise transport.keepalive_timeout_s" in str(error)


def test_control_rounds_without_anything_injected(file: Path) -> None:
    text = "playbook: p\napp: flclient.apps.payload\nrounds: 9\ncontrol: every 2 rounds\n"
    assert "injects no delay and no link" in str(refusal(file, text))


WRONG_TRACES = [
    ("", None, "", "is empty: begin with a line of column names"),
    ("time_s,delay_ms\n", None, "", "holds no steps"),
    ("time_s;delay_ms\n0;1\n", 1, "", "unknown column 'time_s;delay_ms'"),
    ("0,1\n", 1, "", "unknown column '0' (known columns: time_s, delay_ms"),
    ("delay_ms\n1\n", 1, "", "there is no column time_s"),
    ("time_s\n0\n", 1, "", "there is only time_s"),
    ("time_s,delay_ms,delay_ms\n0,1,1\n", 1, "", "the column delay_ms is there twice"),
    ("time_s,delay_ms,up_loss_pct\n0,1,1\n", 1, "", "the same thing is said twice: delay_ms"),
    ("time_s,delay_ms\n0,1\n# c\n1,x\n", 4, "delay_ms", "must be a number, not 'x'"),
    ("time_s,delay_ms\n0,1\n1,\n", 3, "delay_ms", "must be a number, not ''"),
    ("time_s,delay_ms\n0,1\n1,nan\n", 3, "delay_ms", "must be a number, not 'nan'"),
    ("time_s,delay_ms\n0,1\n1,-2\n", 3, "delay_ms", "from 0 to 60000, not -2"),
    ("time_s,up_loss_pct\n0,1\n1,101\n", 3, "up_loss_pct", "from 0 to 100, not 101"),
    ("time_s,delay_ms,jitter_ms\n0,1,2\n", 2, "", "jitter_ms (2) must not be above delay_ms (1)"),
    ("time_s,delay_ms\n0,1\n1,2,3\n", 3, "", "has 3 values, but there are 2 columns: time_s, delay_ms"),
    ("time_s,delay_ms\n1,1\n", 2, "time_s", "the first step must be at 0 s"),
    ("time_s,delay_ms\n0,1\n2,1\n1,1\n", 4, "time_s", "1 follows 2"),
    ("time_s,delay_ms\n" + "".join(f"{n},1\n" for n in range(MOST_STEPS + 1)), MOST_STEPS + 2, "", "first 1500"),
]


@pytest.mark.parametrize(("text", "line", "key", "words"), WRONG_TRACES)
def test_a_bad_trace(file: Path, text: str, line: int | None, key: str, words: str) -> None:
    """The error names the trace file, its line and its column, not the playbook."""
    trace = file.parent / "bad.csv"
    trace.write_text(text)
    error = refusal(file, changed(LINK, "link: {trace: {file: bad.csv}}").replace(SWEEP + "\n", ""))
    assert (error.file, error.line, error.key) == (trace, line, key)
    assert words in str(error)


# --- rules for hosts -------------------------------------------------------------------------------------------------


def rules(file: Path, *matches: str) -> tuple[Rule, ...]:
    text = "".join(f"  - match: {match}\n    link: {{delay_ms: 1}}\n" for match in matches)
    return load(file, f"playbook: p\napp: flclient.apps.payload\nrounds: 1\nhosts:\n{text}").hosts


def test_rules_find_their_clients(file: Path) -> None:
    """By labels, all of which must hold, or by name."""
    found = rules(file, "{net: wifi, board: pi4}", "{name: pc}")
    assert assigned(found, LABELS) == {"pi-a": found[0], "pc": found[1]}


@pytest.mark.parametrize(
    ("matches", "line", "key", "words"),
    [
        (["{nte: wifi}"], 5, "hosts[0].match.nte", ["no client of the lab has a label 'nte'; did you mean net?"]),
        (["{net: wi-fi}"], 5, "hosts[0].match.net", ["the label net: wi-fi", "did you mean wifi?", "lan, wifi"]),
        (["{name: pi-c}"], 5, "hosts[0].match.name", ["the lab has no client 'pi-c'", "pi-a, pi-b, pc"]),
        (["{net: lan, board: pi4}"], 5, "hosts[0]", ["fits no client", "net: lan, board: pi4"]),
        (["{net: wifi}", "{name: pi-b}"], 7, "hosts[1]", ["fits pi-b, and so does hosts[0] (line 5)"]),
    ],
)
def test_rules_that_do_not_fit_the_lab(file: Path, matches: list[str], line: int, key: str, words: list[str]) -> None:
    """Said of the playbook's line, with what the lab does have."""
    found = rules(file, *matches)
    with pytest.raises(InputError) as caught:
        assigned(found, LABELS)
    assert (caught.value.file, caught.value.line, caught.value.key) == (file, line, key)
    for word in words:
        assert word in str(caught.value)


def test_a_label_that_is_called_name(file: Path) -> None:
    """`match: {name: …}` could mean either."""
    with pytest.raises(InputError, match="two things"):
        assigned(rules(file, "{name: pc}"), {**LABELS, "pi-a": {"name": "pc"}})


# --- anything at all -------------------------------------------------------------------------------------------------

KEYS = ["layer", "up", "down", "steps", "trace", "switching", "delay_ms", "jitter_ms", "loss_burst", "at_s", "mean_s"]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats(-1, 200) | st.sampled_from(["a", "kernel", "relay", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "file", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(key=st.sampled_from(["link", "hosts", "control", "probe", "sample_every_s"]), value=PLAIN)
def test_no_value_makes_anything_but_an_input_error(file: Path, key: str, value: Any) -> None:
    value = [{"match": {"a": "b"}, "link": value}] if key == "hosts" and isinstance(value, dict) else value
    file.write_bytes(msgspec.json.encode({"playbook": "p", "app": "flclient.apps.payload", "rounds": 3, key: value}))
    assert outcome(file).startswith(("loaded", f"{file}:1: {key}"))


@given(link=st.dictionaries(st.sampled_from(KEYS), PLAIN, max_size=2), values=st.lists(PLAIN, max_size=2))
def test_no_sweep_of_a_link_makes_anything_but_an_input_error(file: Path, link: Any, values: Any) -> None:
    for key in ("link.delay_ms", "link.up.jitter_ms"):
        book = {"playbook": "p", "app": "flclient.apps.payload", "rounds": 3, "link": link, "sweep": {key: values}}
        file.write_bytes(msgspec.json.encode(book))
        assert outcome(file).startswith(("loaded", f"{file}:1: link", f"{file}:1: sweep"))


CELLS = st.sampled_from(
    ["0", "1", "-1", "x", "", "1e9", "time_s", "delay_ms", "rate_mbit", "up_delay_ms", "#", " ", "é"]
)


@given(rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=4))
def test_no_trace_makes_anything_but_an_input_error(file: Path, rows: list[list[str]]) -> None:
    """Of the trace, not of the playbook."""
    (file.parent / "any.csv").write_text("\n".join(",".join(row) for row in rows), encoding="utf-8")
    file.write_text("playbook: p\napp: flclient.apps.payload\nrounds: 3\nlink: {trace: {file: any.csv}}\n")
    assert outcome(file).startswith(("loaded", f"{file.parent / 'any.csv'}:"))
