"""The `deploy` command: what a user types, what is said, and the exit status."""

from __future__ import annotations

import json
import re
import socket

import click
import pytest
import typer
from typer.testing import CliRunner

from deploy.cli import app

LAB = """\
lab: bench
server: {host: 192.0.2.10}
clients:
  pi-a: {host: 192.0.2.21}
  pi-b: {host: 192.0.2.22}
"""
BOOK = """\
playbook: book
app: flclient.apps.cifar10
data: {set: digits}
rounds: 3
delay: {probability: 0.5, seconds: 3}
sweep: {delay.probability: [0, 1]}
"""
VERBS = sorted(typer.main.get_command(app).commands)


def deploy(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def files(tmp_path):
    """Write a lab and a playbook, changed in one place each, and return their paths."""

    def write(lab=("", ""), book=("", "")):
        paths = tmp_path / "lab.yaml", tmp_path / "book.yaml"
        for path, text, (old, new) in zip(paths, (LAB, BOOK), (lab, book), strict=True):
            assert old in text
            path.write_text(text.replace(old, new, 1))
        return paths

    return write


IN_LAB = [
    pytest.param(("lab:", "labb:"), "1: labb: unknown key", id="unknown key"),
    pytest.param(("192.0.2.21}", "7}"), "4: clients.pi-a.host: must be", id="wrong type"),
    pytest.param(("192.0.2.21}", "x, interface: 'a b'}"), "4: clients.pi-a.interface: must be", id="interface"),
    pytest.param(("192.0.2.22", "192.0.2.21"), "5: clients.pi-b: duplicate host", id="duplicate host"),
    pytest.param(("pi-b", "pi-a"), "5: clients.pi-a: duplicate key", id="duplicate YAML key"),
    pytest.param(("lab: bench", "lab: bench\npassword: x"), "2: password: passwords", id="a secret"),
    pytest.param(("lab: bench", "lab: [bold]b[/bold]"), "1: is not YAML", id="markup"),
]
IN_BOOK = [
    pytest.param(("rounds", "ruonds"), "4: ruonds: unknown key", id="unknown key"),
    pytest.param(("3\n", "three\n"), "4: rounds: must be a whole number", id="wrong type"),
    pytest.param(("0.5", "-0.1"), "5: delay.probability: must be a number from 0 to 1, not -0.1", id="negative"),
    pytest.param(("0.5", "1.1"), "5: delay.probability: must be a number from 0 to 1, not 1.1", id="above 1"),
    pytest.param(("[0, 1]", "[0, 2]"), "6: sweep.delay.probability[1]: must be a number from 0 to 1", id="in a sweep"),
    pytest.param(("rounds: 3", "rounds: 3\nrounds: 4"), "5: rounds: duplicate key", id="duplicate YAML key"),
    pytest.param(("{delay.probability: [0, 1]}", "{}"), "6: sweep: is empty", id="empty sweep"),
    pytest.param(("[0, 1]", "[]"), "6: sweep.delay.probability: is empty", id="empty list"),
    pytest.param(("cifar10", "resnet"), "2: app: unknown app 'flclient.apps.resnet'", id="unknown app"),
    pytest.param(("rounds", "link: {loss_pct: 150}\nrounds"), "4: link.loss_pct: must be", id="loss"),
    pytest.param(("rounds", "link: {rate_mbit: -1}\nrounds"), "4: link.rate_mbit: must be", id="rate"),
    pytest.param(("rounds", "link: {jitter_ms: 1}\nrounds"), "4: link: jitter_ms (1) must not be above", id="jitter"),
    pytest.param(("rounds", "link: {dealy_ms: 1}\nrounds"), "4: link.dealy_ms: unknown key", id="a link's key"),
    pytest.param(("rounds", "link: {layer: tc}\nrounds"), "4: link.layer: must be one of", id="layer"),
    pytest.param(
        ("rounds", "link: {up: {}, loss_pct: 1}\nrounds"), "4: link.loss_pct: the same thing is said", id="twice"
    ),
    pytest.param(("rounds", "link: {steps: [{at_s: 1}]}\nrounds"), "4: link.steps[0].at_s: the first", id="steps"),
    pytest.param(
        ("rounds", "link: {switching: {a: {mean_s: 1}}}\nrounds"),
        "4: link.switching: needs at least two",
        id="one state",
    ),
    pytest.param(("rounds", "control: sometimes\nrounds"), "4: control: must be text: every K rounds", id="control"),
    pytest.param(
        ("{delay.probability: [0, 1]}", "{link.loss_pct: [0, 101]}"),
        "6: sweep.link.loss_pct[1]: must be",
        id="swept link",
    ),
    pytest.param(
        ("digits", "mnist"), "3: data.set: must be one of cifar10, digits, not 'mnist'", id="unknown data set"
    ),
]


def refused(result, message):
    """Check that one clear message, and nothing else, was said, with exit status 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}"), result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize("verb", ["up", "check"])
@pytest.mark.parametrize(("change", "message"), IN_BOOK)
def test_a_bad_playbook_is_refused(files, tmp_path, verb, change, message):
    """One line on stderr with file, line and key; nothing is started and no run directory made."""
    lab, book = files(book=change)
    runs = ["--runs", tmp_path / "runs"] if verb == "up" else []
    refused(deploy(verb, lab, "--playbook", book, *runs), f"{book}:{message}")
    assert set(tmp_path.iterdir()) == {lab, book}


RULES = [
    pytest.param(("{name: pi-c}", "{name: pi-a}"), "5: hosts[0].match.name: the lab has no client 'pi-c'", id="nobody"),
    pytest.param(("{net: lan}", "{name: pi-a}"), "5: hosts[0].match.net: no client of the lab has a label", id="label"),
    pytest.param(("{name: pi-a}",) * 2, "6: hosts[1]: fits pi-a, and so does hosts[0] (line 5)", id="two rules"),
]


@pytest.mark.parametrize("verb", ["up", "check"])
@pytest.mark.parametrize(("matches", "message"), RULES)
def test_rules_that_do_not_fit_the_lab_are_refused(files, tmp_path, verb, matches, message):
    """Before any host is spoken to (these do not exist), and no run directory is made."""
    rules = "".join(f"- {{match: {match}, link: {{delay_ms: 1}}}}\n" for match in matches)
    lab, book = files(book=("rounds", f"hosts:\n{rules}rounds"))
    runs = ["--runs", tmp_path / "runs"] if verb == "up" else []
    result = deploy(verb, lab, "--playbook", book, *runs)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {book}:{message}"), result.stderr
    assert result.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) == {lab, book}


def test_a_bad_trace_of_a_link_is_refused(files, tmp_path):
    """By the trace's name, line and column."""
    lab, book = files(book=("rounds", "link: {trace: {file: x.csv}}\nrounds"))
    (tmp_path / "x.csv").write_text("time_s,delay_ms\n0,1\n1,fast\n")
    refused(deploy("check", lab, "-p", book), f"{tmp_path / 'x.csv'}:3: delay_ms: must be a number, not 'fast'")


@pytest.mark.parametrize("verb", ["up", "check", "down"])
@pytest.mark.parametrize(("change", "message"), IN_LAB)
def test_a_bad_inventory_is_refused(files, tmp_path, verb, change, message):
    """The same, before any host is spoken to."""
    lab, book = files(lab=change)
    refused(deploy(verb, lab), f"{lab}:{message}")
    assert set(tmp_path.iterdir()) == {lab, book}


@pytest.mark.parametrize("verb", ["up", "check", "down"])
def test_a_missing_inventory_is_named(tmp_path, verb):
    refused(deploy(verb, tmp_path / "no.yaml"), f"{tmp_path / 'no.yaml'}: no such file")


@pytest.mark.parametrize("verb", ["up", "check"])
def test_a_missing_playbook_is_named(files, tmp_path, verb):
    """Whether the command names it or the inventory does."""
    lab, _ = files()
    refused(deploy(verb, lab, "-p", tmp_path / "no.yaml"), f"{tmp_path / 'no.yaml'}: no such file")
    lab, _ = files(lab=("lab: bench", "lab: bench\nplaybook: gone.yaml"))
    refused(deploy(verb, lab), f"{lab}: playbook: no such file: {tmp_path / 'gone.yaml'}")


def test_a_report_needs_a_run(tmp_path):
    """A directory that is none, and one that is not there."""
    for run in (tmp_path, tmp_path / "gone"):
        refused(deploy("report", run), f"{run / 'manifest.json'}: this is not a run directory")


@pytest.mark.parametrize("words", [["nonsense"], ["up", "--nonsense"], ["report"], ["up", "a", "b"]])
def test_bad_usage_is_status_2(words):
    """An unknown verb or option, a missing argument, one too many."""
    result = deploy(*words)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_runs_that_cannot_be_kept_are_an_error_of_this_machine(tmp_path):
    """Exit status 1: a file stands where the run directory should go."""
    (tmp_path / "runs").write_text("")
    lab = tmp_path / "lab.yaml"
    lab.write_text("lab: v\nprovider: virtual\nclients: 1\n")
    book = tmp_path / "book.yaml"
    book.write_text("playbook: b\napp: flclient.apps.payload\nrounds: 1\n")
    result = deploy("up", lab, "-p", book, "--runs", tmp_path / "runs")
    assert result.exit_code == 1, result.output
    assert "the run directory cannot be made: Not a directory" in result.stderr


def test_a_layer_that_cannot_be_had_is_status_3(tmp_path):
    """The hosts of a virtual lab share their interfaces: said of each, before a run directory is made."""
    lab, book = tmp_path / "lab.yaml", tmp_path / "book.yaml"
    lab.write_text("lab: v\nprovider: virtual\nclients: 1\n")
    book.write_text(
        "playbook: b\napp: flclient.apps.payload\nrounds: 1\nlink: {layer: kernel, delay_ms: 5, reorder_pct: 1}\n"
    )
    result = deploy("up", lab, "-p", book, "--runs", tmp_path / "runs")
    assert result.exit_code == 3, result.output
    told = "client-1: look: the playbook asks for layer: kernel, and it cannot be had here: it shares its interfaces"
    assert result.stderr.startswith(f"error: {told}"), result.stderr
    assert "layer: auto or relay in the playbook" in result.stderr
    assert set(tmp_path.iterdir()) == {lab, book}


def test_a_host_that_cannot_be_used_is_status_3(tmp_path):
    """`check` shows it in the table, `down` says it: host, step, reason."""
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    lab = tmp_path / "lab.yaml"
    lab.write_text(
        f"lab: dark\nssh: {{port: {port}}}\nserver: {{host: localhost}}\nclients:\n  pi-a: {{host: 127.0.0.1}}\n"
    )
    checked = deploy("check", lab)
    assert checked.exit_code == 3, checked.output
    assert "refused" in checked.stdout
    downed = deploy("down", lab)
    assert downed.exit_code == 3
    assert re.search(r"^error: server: connect: .*refused.*\npi-a: connect: .*refused", downed.stderr)
    assert "Traceback" not in downed.output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    """With what it does and an example that can be typed."""
    result = deploy(verb, "--help")
    text = click.unstyle(result.stdout)
    assert result.exit_code == 0
    assert "Usage:" in text
    assert f"Examples: deploy {verb}" in " ".join(text.replace("│", "").split())


def test_help_lists_every_verb_and_the_exit_statuses():
    """Also without a word on the command line."""
    text = click.unstyle(deploy("--help").stdout)
    assert all(re.search(rf"\b{verb}\b", text) for verb in VERBS)
    assert all(f"{number} " in text.partition("Exit status:")[2] for number in (0, 1, 2, 3, 4, 130))
    bare = deploy()
    assert "Usage:" in bare.output


def test_down_has_nothing_to_do_on_a_virtual_lab(tmp_path):
    """Its hosts have gone with the command that started them: none is started to be stopped."""
    lab = tmp_path / "lab.yaml"
    lab.write_text("lab: v\nprovider: virtual\nclients: 3\n")
    result = deploy("down", lab)
    assert result.exit_code == 0
    assert "nothing to do" in " ".join(result.stdout.split())


def test_check_says_that_a_virtual_lab_is_ready(tmp_path):
    """A real look over real SSH at two hosts of this machine."""
    lab = tmp_path / "lab.yaml"
    lab.write_text("lab: v\nprovider: virtual\nclients: 1\n")
    result = deploy("check", lab)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("ready") == 2
    assert "client-1" in result.stdout


def test_check_tells_scripts_the_same(tmp_path):
    """One JSON document and nothing else on standard output, whatever the exit status."""
    lab = tmp_path / "lab.yaml"
    lab.write_text("lab: v\nprovider: virtual\nclients: 1\n")
    result = deploy("check", "--json", lab)
    told = json.loads(result.stdout)
    assert (result.exit_code, told["ok"], list(told["hosts"])) == (0, True, ["server", "client-1"])
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    lab.write_text(f"lab: l\nssh: {{port: {port}}}\nserver: {{host: localhost}}\nclients:\n  a: {{host: 127.0.0.1}}\n")
    result = deploy("check", "--json", lab)
    told = json.loads(result.stdout)
    assert (result.exit_code, told["ok"]) == (3, False)
    assert [found["code"] for found in told["hosts"]["a"]["findings"]] == ["connect"]


@pytest.mark.parametrize("words", [("status",), ("logs", "server")])
def test_a_virtual_lab_keeps_no_processes(tmp_path, words):
    """Its hosts are gone with the command that started them: nothing to ask."""
    lab = tmp_path / "lab.yaml"
    lab.write_text("lab: v\nprovider: virtual\nclients: 2\n")
    verb, *rest = words
    refused(deploy(verb, lab, *rest), f"{lab}: provider: a virtual lab's hosts are gone")


def test_logs_of_an_unknown_host(files):
    lab, _ = files()
    refused(deploy("logs", lab, "nobody"), f"{lab}: no host 'nobody'; known hosts: ")
