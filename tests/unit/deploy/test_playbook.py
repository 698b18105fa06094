"""Playbook files: what they become, and what a user reads when they are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.app import known_apps
from deploy.errors import InputError
from deploy.playbook import Playbook, load_playbook
from deploy.sweep import MAX_TRIALS
from flcommon.delay import Constant, Delay, Trace, Uniform
from flcommon.job import Stop, Transport

REPOSITORY = Path(__file__).parents[3]
BOOK = """\
playbook: book
app: flclient.apps.cifar10
data: {set: digits}
rounds: 3
delay: {probability: 0.5, seconds: 3}
sweep:
  delay.probability: [0, 1]
"""
DELAY = "delay: {probability: 0.5, seconds: 3}"
SWEPT = "delay.probability: [0, 1]"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("playbook") / "book.yaml"


def load(file: Path, text: str) -> Playbook:
    file.write_text(text)
    return load_playbook(file)


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


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


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("playbooks/*.yaml")), ids=lambda path: path.name)
def test_every_playbook_of_the_repository_loads(path: Path) -> None:
    assert load_playbook(path).conditions


def test_the_papers_playbook() -> None:
    book = load_playbook(REPOSITORY / "playbooks" / "paper.yaml")
    assert (book.repeats, book.order, book.seed, len(book.conditions)) == (3, "shuffled", 1, 18)
    last = book.conditions[-1]
    assert last.values == {"delay.probability": 1, "delay.seconds": 5}
    assert last.settings.delay == Delay(probability=1.0, seconds=Constant(5.0))
    assert last.settings.stop == Stop(metric="accuracy", at_least=0.55)
    assert last.settings.run_config == {"lr": 0.001, "momentum": 0.9, "batch-size": 32, "local-epochs": 1}


def test_the_smallest_playbook(file: Path) -> None:
    book = load(file, "playbook: p\napp: flclient.apps.payload\nrounds: 1\n")
    assert (book.repeats, book.order, book.seed, book.sweep) == (1, "shuffled", 1, {})
    (condition,) = book.conditions
    assert condition.values == {}
    assert (condition.settings.data, condition.settings.delay, condition.settings.stop) == (None, None, None)


def test_the_transport_has_the_jobs_defaults(file: Path) -> None:
    """TLS is on unless the playbook says otherwise."""
    book = load(file, BOOK)
    assert (book.transport, book.tls) == (Transport(), True)


@pytest.mark.parametrize(
    ("written", "is_on"), [("off", False), ("false", False), ("OFF", False), ("on", True), ("true", True)]
)
def test_tls_is_a_switch(file: Path, written: str, *, is_on: bool) -> None:
    """As it is spoken of; in the manifest it is a plain boolean."""
    book = load(file, BOOK + f"transport: {{tls: {written}, rejoin_timeout_s: 30}}\n")
    assert (book.tls, book.transport) == (is_on, Transport(rejoin_timeout_s=30))
    assert book.resolved["transport"] == {"tls": is_on, "rejoin_timeout_s": 30}


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("{tls: no}", "transport.tls", "write true or false"),
        ("{tls: 1}", "transport.tls", "must be true or false, not 1"),
        ("{tls: 'off'}", "transport.tls", "must be true or false, not 'off'"),
        ("{tsl: off}", "transport.tsl", "write true or false"),
        ("{tsl: 1}", "transport.tsl", "unknown key; did you mean tls?"),
        ("{keepalive_s: 0}", "transport.keepalive_s", "must be a number from 0.1 to 3600, not 0"),
        ("{keepalive_timeout_s: 5s}", "transport.keepalive_timeout_s", "must be a number from 0.1 to 3600"),
        ("{rejoin_timeout_s: -1}", "transport.rejoin_timeout_s", "must be a number from 0 to 604800"),
        ("{clock_every_s: 1e9}", "transport.clock_every_s", "must be a number from 0 to 3600"),
        ("off", "transport", "is true or false to some readers"),
    ],
)
def test_a_transport_that_cannot_be(file: Path, section: str, key: str, words: str) -> None:
    error = refusal(file, BOOK + f"transport: {section}\n")
    assert (error.key, error.line) == (key, 8)
    assert words in str(error)


def test_the_sweeps_last_key_varies_fastest(file: Path) -> None:
    book = load(file, BOOK + "  rounds: [1, 2]\n  run_config.opt.lr: [0.1]\n")
    assert [list(x.values.values()) for x in book.conditions] == [[0, 1, 0.1], [0, 2, 0.1], [1, 1, 0.1], [1, 2, 0.1]]
    assert [x.settings.rounds for x in book.conditions] == [1, 2, 1, 2]
    assert book.conditions[0].settings.run_config == {"opt.lr": 0.1}
    assert list(book.sweep) == ["delay.probability", "rounds", "run_config.opt.lr"]


def test_a_swept_value_replaces_the_sections(file: Path) -> None:
    book = load(file, replaced(BOOK, SWEPT, "delay.seconds: [1, {distribution: uniform, low_s: 3, high_s: 5}]"))
    delays = [x.settings.delay for x in book.conditions]
    assert delays == [Delay(0.5, Constant(1.0)), Delay(0.5, Uniform(3.0, 5.0))]
    assert book.conditions[1].values == {"delay.seconds": {"distribution": "uniform", "low_s": 3, "high_s": 5}}


@pytest.mark.parametrize("section", ["", "delay: {}", "delay:", "delay: {at: before-upload}"])
def test_a_delay_may_come_from_the_sweep_alone(file: Path, section: str) -> None:
    book = load(file, replaced(BOOK, DELAY, section) + "  delay.seconds: [3]\n")
    assert [x.settings.delay for x in book.conditions] == [Delay(0.0, Constant(3.0)), Delay(1.0, Constant(3.0))]


def test_a_trace_is_read_in(file: Path) -> None:
    """The hosts get the values, so does the manifest; the swept value stays as written, to name the condition."""
    (file.parent / "delays.txt").write_text("# seconds\n0\n\n1.5 # a comment\n  2e-1\r\n")
    trace = "{distribution: trace, file: delays.txt}"
    book = load(file, replaced(BOOK, "seconds: 3", f"seconds: {trace}"))
    assert book.conditions[0].settings.delay == Delay(0.0, Trace((0.0, 1.5, 0.2)))
    assert book.resolved["delay"]["seconds"] == {"distribution": "trace", "values_s": [0.0, 1.5, 0.2]}
    swept = load(file, replaced(BOOK, SWEPT, f"delay.seconds: [3, {trace}]"))
    assert swept.conditions[1].settings.delay == Delay(0.5, Trace((0.0, 1.5, 0.2)))
    assert swept.conditions[1].values == {"delay.seconds": {"distribution": "trace", "file": "delays.txt"}}


def test_the_resolved_playbook_is_a_playbook(file: Path, tmp_path: Path) -> None:
    """A run can be repeated from its manifest alone: no trace file is needed."""
    (file.parent / "delays.txt").write_text("1\n2\n")
    book = load(file, replaced(BOOK, "seconds: 3", "seconds: {distribution: trace, file: delays.txt}"))
    again = load(tmp_path / "again.yaml", msgspec.json.encode(book.resolved).decode())
    assert again.conditions == book.conditions
    assert again.resolved == book.resolved


def test_partitions_with_and_without_alpha_can_be_compared(file: Path) -> None:
    """A sweep from iid to dirichlet needs alpha in the section: it counts where it has a meaning."""
    text = replaced(BOOK, "set: digits", "set: digits, alpha: 0.5")
    book = load(file, replaced(text, SWEPT, "data.partition: [iid, dirichlet]"))
    data = [x.settings.data for x in book.conditions]
    assert [(x.partition, x.alpha) for x in data if x] == [("iid", None), ("dirichlet", 0.5)]


REFUSALS = [
    ("rounds: 3", "rounds: -1", 4, "rounds", ["a whole number of 1 or more, not -1"]),
    ("rounds: 3", "rounds: 0", 4, "rounds", ["1 or more, not 0"]),
    ("rounds: 3", "rounds: 2.5", 4, "rounds", ["a whole number of 1 or more, not 2.5"]),
    ("rounds: 3", "rounds: true", 4, "rounds", ["a whole number of 1 or more, not true"]),
    ("rounds: 3", "rounds: ten", 4, "rounds", ["not 'ten'"]),
    ("rounds: 3\n", "", 1, "rounds", ["is missing"]),
    ("rounds: 3", "round: 3", 4, "round", ["did you mean rounds?", "known keys: playbook, app, rounds, data"]),
    ("rounds: 3", "rounds: 3\nhost: []", 5, "host", ["unknown key; did you mean hosts?"]),
    ("rounds: 3", "rounds: 3\nrounds: 3", 5, "rounds", ["duplicate key", "line 4"]),
    ("rounds: 3", "rounds: 3\nrepeats: 0", 5, "repeats", ["from 1 to 10000, not 0"]),
    ("rounds: 3", "rounds: 3\norder: random", 5, "order", ["one of listed, shuffled, not 'random'"]),
    ("rounds: 3", "rounds: 3\nseed: -1", 5, "seed", ["0 or more, not -1"]),
    ("rounds: 3", "rounds: 3\nstop: {metric: accuracy}", 5, "stop.at_least", ["is missing"]),
    ("rounds: 3", "rounds: 3\nrun_config: 3", 5, "run_config", ["must be a mapping"]),
    ("rounds: 3", "rounds: 3\nrun_config:\n  a: 1\n  b: [1]", 7, "run_config.b", ["a number or text, not a list"]),
    ("rounds: 3", "rounds: 3\nrun_config: {a: }", 5, "run_config.a", ["a number or text, not empty"]),
    ("rounds: 3", "rounds: 3\nrun_config: {seed: 1}", 5, "run_config.seed", ["said twice", "playbook's `seed`"]),
    (
        *("rounds: 3", "rounds: 3\nrun_config: {num-server-rounds: 1}", 5, "run_config.num-server-rounds"),
        ["said twice", "playbook's `rounds`"],
    ),
    ("rounds: 3", "rounds: 3\nrun_config: {data.set: x}", 5, "run_config.data.set", ["said twice", "`data.set`"]),
    ("book\n", "a b\n", 1, "playbook", ["letters, digits"]),
    ("apps.cifar10", "apps.cifar", 2, "app", ["did you mean flclient.apps.cifar10?", "flclient.apps.payload"]),
    ("flclient.apps.cifar10", "os", 2, "app", ["unknown app 'os'", "known apps: flclient.apps.cifar10"]),
    ("flclient.apps.cifar10", "3", 2, "app", ["must be text, not 3"]),
    ("set: digits", "set: mnist", 3, "data.set", ["one of cifar10, digits, not 'mnist'"]),
    ("set: digits", "partition: iid", 3, "data.set", ["is missing"]),
    ("set: digits", "set: digits, partition: dirichlet", 3, "data", ["dirichlet needs alpha"]),
    ("set: digits", "set: digits, alpha: 1", 3, "data", ["alpha goes with partition: dirichlet, not with full"]),
    ("set: digits", "set: digits, partition: dirichlet, alpha: 0", 3, "data.alpha", ["above 0, not 0"]),
    ("set: digits", "set: digits, partitions: iid", 3, "data.partitions", ["did you mean partition?"]),
    ("{set: digits}", "digits", 3, "data", ["must be a mapping", "not 'digits'"]),
    ("probability: 0.5", "probability: 1.5", 5, "delay.probability", ["from 0 to 1, not 1.5"]),
    ("probability: 0.5", "probability: -0.1", 5, "delay.probability", ["from 0 to 1, not -0.1"]),
    ("probability: 0.5", "probability: 50%", 5, "delay.probability", ["from 0 to 1, not '50%'"]),
    ("probability: 0.5", "probability: .nan", 5, "delay.probability", ["finite"]),
    ("probability: 0.5", "probabilty: 0.5", 5, "delay.probabilty", ["did you mean probability?"]),
    ("seconds: 3", "seconds: -3", 5, "delay.seconds", ["from 0 to 86400, not -3"]),
    ("seconds: 3", "seconds: 3s", 5, "delay.seconds", ["a number of seconds", "not '3s'"]),
    ("seconds: 3", "seconds: [3]", 5, "delay.seconds", ["a number of seconds", "not a list"]),
    ("seconds: 3", "seconds: true", 5, "delay.seconds", ["a number of seconds", "not true"]),
    ("seconds: 3", "seconds: {low_s: 1}", 5, "delay.seconds.distribution", ["is missing"]),
    ("seconds: 3", "seconds: {distribution: unifrm}", 5, "delay.seconds.distribution", ["did you mean uniform?"]),
    ("seconds: 3", "seconds: {distribution: uniform, low_s: 1}", 5, "delay.seconds.high_s", ["is missing"]),
    (
        *("seconds: 3", "seconds: {distribution: uniform, low_s: 2, high_s: 1}", 5, "delay.seconds"),
        ["high_s (1) must not be below low_s (2)"],
    ),
    (
        *("seconds: 3", "seconds: {distribution: normal, mean: 2}", 5, "delay.seconds.mean"),
        ["did you mean mean_s?", "known keys: distribution, mean_s, std_s"],
    ),
    ("seconds: 3", "seconds: {distribution: pareto, minimum_s: 1, alpha: 1}", 5, "delay.seconds.alpha", ["above 1"]),
    ("seconds: 3", "seconds: {distribution: trace}", 5, "delay.seconds", ["a trace needs a file"]),
    ("seconds: 3", "seconds: {distribution: trace, flie: x}", 5, "delay.seconds.flie", ["did you mean file?"]),
    ("seconds: 3", "seconds: {distribution: trace, file: 3}", 5, "delay.seconds.file", ["path", "not 3"]),
    ("seconds: 3", "seconds: {distribution: trace, file: no.txt}", 5, "delay.seconds.file", ["no.txt: no such file"]),
    ("seconds: 3", "seconds: {distribution: trace, file: .}", 5, "delay.seconds.file", ["is a directory"]),
    (
        *("seconds: 3", "seconds: {distribution: trace, file: a, values_s: [1]}", 5, "delay.seconds.file"),
        ["the same thing is said twice"],
    ),
    (
        *("seconds: 3", "seconds: {distribution: trace, values_s: [1, -1]}", 5, "delay.seconds.values_s[1]"),
        ["from 0 to 86400, not -1"],
    ),
    ("seconds: 3", "seconds: 3, at: after-upload", 5, "delay.at", ["'before-upload', not 'after-upload'"]),
    (DELAY, "delay: 3", 5, "delay", ["must be a mapping"]),
    (
        DELAY,
        "",
        7,
        "sweep.delay.probability[0]",
        ["the delay has no seconds", "section `delay`", "sweep delay.seconds"],
    ),
    (DELAY, "delay: {at: before-upload}", 7, "sweep.delay.probability[0]", ["the delay has no seconds"]),
    ("[0, 1]", "[0, 1.5]", 7, "sweep.delay.probability[1]", ["from 0 to 1, not 1.5"]),
    ("[0, 1]", "\n  - 0\n  - 1.5", 9, "sweep.delay.probability[1]", ["from 0 to 1, not 1.5"]),
    ("[0, 1]", "[0, 1, 0.0]", 7, "sweep.delay.probability[2]", ["twice", "sweep.delay.probability[0]"]),
    ("[0, 1]", "[]", 7, "sweep.delay.probability", ["is empty", "at least one value"]),
    ("[0, 1]", "0.5", 7, "sweep.delay.probability", ["must be a list [a, b, …], not 0.5"]),
    (f"sweep:\n  {SWEPT}", "sweep: {}", 6, "sweep", ["is empty", "leave sweep out"]),
    (f"sweep:\n  {SWEPT}", "sweep:", 6, "sweep", ["must be a mapping"]),
    (
        "delay.probability:",
        "delay.probabilty:",
        7,
        "sweep.delay.probabilty",
        ["did you mean delay.prob", "run_config.*"],
    ),
    ("delay.probability:", "run_config.:", 7, "sweep.run_config.", ["cannot be swept", "data.partition"]),
    ("delay.probability:", "repeats:", 7, "sweep.repeats", ["cannot be swept", "rounds, delay.probability"]),
    ("delay.probability:", "delay.at:", 7, "sweep.delay.at", ["cannot be swept"]),
    (SWEPT, "run_config.seed: [1, 2]", 7, "sweep.run_config.seed", ["the same thing is said twice"]),
    (SWEPT, "run_config.a: [1, [2]]", 7, "sweep.run_config.a[1]", ["a number or text, not a list"]),
    (SWEPT, "delay.seconds: [3, -1]", 7, "sweep.delay.seconds[1]", ["from 0 to 86400, not -1"]),
    (SWEPT, "delay.seconds: [3, 3.0]", 7, "sweep.delay.seconds[1]", ["3.0 is in the list twice"]),
    (SWEPT, "delay.seconds: [3, x]", 7, "sweep.delay.seconds[1]", ["a number of seconds", "'x'"]),
    (
        *(SWEPT, "delay.seconds: [3, {distribution: uniform, low_s: 2, high_s: 1}]", 7, "sweep.delay.seconds[1]"),
        ["high_s (1) must not be below low_s (2)"],
    ),
    (
        *(SWEPT, "delay.seconds: [{distribution: trace, file: no.txt}]", 7, "sweep.delay.seconds[0].file"),
        ["no.txt: no such file"],
    ),
    (SWEPT, "rounds: [3, 0]", 7, "sweep.rounds[1]", ["1 or more, not 0"]),
    (SWEPT, "data.set: [digits, mnist]", 7, "sweep.data.set[1]", ["one of cifar10, digits, not 'mnist'"]),
    (SWEPT, "data.partition: [iid, dirichlet]", 7, "sweep.data.partition[1]", ["dirichlet needs alpha"]),
    (SWEPT, "data.alpha: [0.1, 1]", 7, "sweep.data.alpha[0]", ["alpha goes with partition: dirichlet"]),
    (SWEPT, f"run_config.a: {list(range(MAX_TRIALS + 1))}", 6, "sweep", ["10001 trials; at most 10000"]),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case[3])
def test_refusals(file: Path, case: tuple[str, str, int, str, list[str]]) -> None:
    """Every error names file, line and dotted key, also inside the sweep, and says what would be right."""
    old, new, line, key, words = case
    error = refusal(file, replaced(BOOK, old, new))
    assert (error.file, error.line, error.key) == (file, line, key)
    assert str(error).startswith(f"{file}:{line}: {key}: ")
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("value", ["0,3", "-1", "nan", "inf", "1_0", "86401", "1 2", "x", "٣", "0x1"])
def test_bad_lines_of_a_trace(file: Path, value: str) -> None:
    """The error names the trace file and its line, not the playbook."""
    trace = file.parent / "bad.txt"
    trace.write_text(f"1\n# c\n{value}\n", encoding="utf-8")
    error = refusal(file, replaced(BOOK, "seconds: 3", "seconds: {distribution: trace, file: bad.txt}"))
    assert (error.file, error.line) == (trace, 3)
    assert f"a number of seconds from 0 to 86400, not {value!r}" in str(error)


def test_an_empty_trace(file: Path) -> None:
    trace = file.parent / "empty.txt"
    trace.write_text("# nothing\n")
    error = refusal(file, replaced(BOOK, "seconds: 3", "seconds: {distribution: trace, file: empty.txt}"))
    assert str(error).startswith(f"{trace}: holds no delays")


def test_a_huge_sweep_is_refused_before_it_is_built(file: Path) -> None:
    """Twelve keys of ten values are 10^12 conditions."""
    keys = "".join(f"  run_config.k{i}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for i in range(12))
    assert "at most 10000" in str(refusal(file, BOOK + keys))


def test_apps_are_found_without_importing_them() -> None:
    """The controller runs on a laptop without torch and flwr."""
    check = (
        "import sys; from deploy.app import known_apps; names = known_apps();"
        "print(*names); print(*sorted({'torch', 'flwr', 'grpc'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    names, imported = run.stdout.split("\n")[:2]
    assert {"flclient.apps.cifar10", "flclient.apps.payload"} <= set(names.split())
    assert imported == ""
    assert known_apps() == tuple(names.split())


SOURCES = [*((REPOSITORY / "playbooks" / f"{name}.yaml").read_text() for name in ("paper", "links")), BOOK]
BITS = ["", "\n", ":", "{", "}", "[", "]", "'", "-", "#", " ", "no", "1", "-1", "1e9", "null", "&a ", "*a", "\x00", "é"]


@given(data=st.data())
def test_no_mutation_makes_anything_but_an_input_error(file: Path, data: st.DataObject) -> None:
    """A valid file with pieces replaced at random either loads or gives an InputError."""
    text = data.draw(st.sampled_from(SOURCES))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(st.sampled_from(BITS)) + text[stop:]
    file.write_text(text)
    assert outcome(file).startswith(("loaded", f"{file}:"))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats(-1, 9) | st.sampled_from(["a", "iid", "uniform", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["at", "seconds", "set", "distribution", "low_s", "delay.seconds"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(
    key=st.sampled_from(["data", "delay", "sweep", "stop", "run_config", "rounds", "seed", "app", "order"]), value=PLAIN
)
def test_no_value_of_a_section_makes_anything_but_an_input_error(file: Path, key: str, value: object) -> None:
    content = {"playbook": "p", "app": "flclient.apps.payload", "rounds": 1, key: value}
    file.write_bytes(msgspec.json.encode(content))
    assert outcome(file).startswith(("loaded", f"{file}:1: {key}"))
