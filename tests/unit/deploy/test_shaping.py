"""Who shapes a client's link: what follows from the playbook's wish and from what the host can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from rich.console import Console

from deploy import hostside
from deploy.app import embedded
from deploy.checking import check_lab
from deploy.checklist import document, page
from deploy.crew import Crew
from deploy.errors import HostError, InputError
from deploy.health import Examined, Health, Traffic
from deploy.hostside import look
from deploy.hostside import traffic as script
from deploy.inventory import Host, Inventory, Python, Ssh
from deploy.playbook import load_playbook
from deploy.remote.fake import FakeRemote
from deploy.shaping import Choice, Wish, choose, layers, wishes
from flcommon.job import Shaping
from flcommon.link import Link, Step, Steps, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.facts import Facts

PAYLOAD = embedded("flclient.apps.payload")
ABLE = Traffic(interface="eth0", root=True, refused="")


def able(**changed: Any) -> Traffic:
    return msgspec.structs.replace(ABLE, **changed)


REFUSED = "sch_netem: Error: Specified qdisc kind is unknown."


def host(name: str, role: Any = "client", interface: str = "") -> Host:
    place = {"server": "192.0.2.1", "pi-a": "192.0.2.2", "pi-b": "192.0.2.3"}[name]
    return Host(
        name=name,
        role=role,
        host=place,
        ssh=Ssh(),
        python=Python(),
        workdir="~/.fieldlab",
        labels={"net": "wifi"} if name == "pi-b" else {},
        interface=interface,
        inventory="lab.yaml",
    )


def lab(interface: str = "", server_address: str = "192.0.2.1:8080") -> Inventory:
    return Inventory(
        file=Path("lab.yaml"),
        lab="bench",
        playbook=None,
        server=host("server", "server"),
        server_address=server_address,
        clients=(host("pi-a", interface=interface), host("pi-b")),
    )


def wish(layer: Any = "auto", **way: Any) -> Wish:
    both = Way(**way)
    return Wish(layer, (Link(course=Steps(steps=(Step(up=both, down=both),))),))


@pytest.fixture
def chosen(facts: Callable[..., Facts]) -> Callable[..., Choice]:
    """Choose for one client on a host that is able, with some of what was found or wished changed."""

    def choose_one(
        wished: Wish, *, interface: str = "", look: Any = None, health: Any = None, **traffic: Any
    ) -> Choice:
        own = Health(**{"traffic": able(**traffic), **(health or {})})
        here = facts(**{"stack": "boot-a net:[1]", "interfaces": ("lo", "eth0", "wlan0"), **(look or {})})
        seen = {"server": Examined(facts(stack="boot-s net:[1]"), Health(), None), "pi-a": Examined(here, own, None)}
        return choose((host("pi-a", interface=interface),), seen, {"pi-a": wished})["pi-a"]

    return choose_one


# --- the choice ------------------------------------------------------------------------------------------------------


def test_the_kernel_where_it_can(chosen):
    """With the inventory's interface, if it has one."""
    assert chosen(wish()) == Choice(Shaping(layer="kernel"), "the host has all that it needs")
    assert chosen(wish(), interface="wlan0").shaping == Shaping(layer="kernel", interface="wlan0")
    assert chosen(wish("kernel", reorder_pct=1, delay_ms=1)).shaping == Shaping(layer="kernel")


def test_a_relay_where_it_is_wished(chosen):
    """The kernel is not even asked."""
    assert chosen(wish("relay"), health={"traffic": None}) == Choice(Shaping(layer="relay"), "as the playbook says")


OBSTACLES = [
    ({"look": {"system": "Darwin"}}, "system", "Darwin is not Linux", "Linux"),
    ({"health": {"traffic": None}}, "kernel", "its kernel did not answer", "sudo tc qdisc show"),
    ({"health": {"traffic": None}, "look": {"python": ""}}, "kernel", "there is no Python yet", "install Python"),
    ({"look": {"stack": "boot-s net:[1]"}}, "shared", "shares its interfaces", "provider: netns"),
    ({"health": {"traffic": able(interface="lo")}}, "shared", "shares its interfaces", "machine of its own"),
    ({"missing": ("ip", "tc"), "refused": None}, "tc", "ip and tc are not installed", "apt-get install iproute2"),
    ({"root": False, "refused": None}, "sudo", "sudo asks for a password", "NOPASSWD"),
    ({"refused": REFUSED}, "netem", "the kernel refuses sch_netem", "linux-modules-extra"),
    ({"refused": None}, "netem", "cannot be seen whether the kernel has sch_netem", "linux-modules-extra"),
    ({"health": {"traffic": able(interface="")}}, "route", "there is no route to the server", "interface"),
    (
        {"health": {"traffic": able(), "interface": "eth0"}, "interface": "wlan0"},
        "route",
        "over eth0, not over wlan0",
        "leave",
    ),
    ({"qdiscs": ("fq_codel 1: parent",)}, "qdisc", "eth0 has a fq_codel (1:)", "tc qdisc del dev eth0 root"),
    (
        {"qdiscs": ("htb 1: root", "fq 2: parent")},
        "qdisc",
        "eth0 has a htb (1:) of somebody else",
        "tc qdisc del dev eth0 root",
    ),
    ({"qdiscs": ("clsact ffff: parent",)}, "qdisc", "a clsact (ffff:)", "tc qdisc del dev eth0 clsact"),
]


@pytest.mark.parametrize(("found", "code", "what", "fix"), OBSTACLES, ids=[case[2] for case in OBSTACLES])
def test_what_keeps_the_kernel_from_it(chosen, found, code, what, fix):
    """A note and a relay where nobody insists; an error that says why and what helps where somebody does."""
    auto = chosen(wish(delay_ms=5), **found)
    assert auto.shaping == Shaping(layer="relay", interface=found.get("interface", ""))
    (said,) = auto.findings
    assert (said.level, said.code) == ("note", code)
    assert what in said.what
    assert fix in said.fix
    assert what in auto.why
    for insisting, why in (
        (wish("kernel"), "the playbook asks for layer: kernel"),
        (wish(delay_ms=5, reorder_pct=1), "only the kernel can play reorder_pct"),
    ):
        forced = chosen(insisting, **found)
        (said,) = forced.findings
        assert (forced.shaping, said.level, said.code) == (None, "error", code)
        assert said.what.startswith(why)
        assert what in said.what
        assert fix in said.fix


def test_what_is_told_of_a_host_that_lacks_everything(chosen):
    """Each obstacle by itself, so that one look is enough to put all right."""
    found = chosen(wish("kernel"), missing=("tc",), root=False, refused=None, qdiscs=("cake 8001: root",)).findings
    assert [one.code for one in found] == ["tc", "sudo", "qdisc"]


@pytest.mark.parametrize(
    "qdiscs", [("fq_codel 8001: root",), ("prio f1ab: root", "netem f1ad: parent", "ingress ffff: parent")]
)
def test_what_can_be_put_back_is_no_obstacle(chosen, qdiscs):
    """Nor is what a keeper of ours that was killed has left."""
    assert chosen(wish("kernel"), qdiscs=qdiscs).shaping == Shaping(layer="kernel")


def test_a_kernel_that_could_not_be_tried_is_believed_by_its_files(chosen):
    """Where there is no `unshare`."""
    health = {"netem": True, "traffic": able(refused=None)}
    assert chosen(wish(), health=health).shaping == Shaping(layer="kernel")


@pytest.mark.parametrize("layer", ["auto", "kernel", "relay"])
def test_an_interface_that_is_not_there(chosen, layer):
    """Whoever shapes: the inventory is wrong, and the known ones are named."""
    choice = chosen(wish(layer), interface="wlan1")
    (said,) = choice.findings
    assert (choice.shaping, said.level, said.code) == (None, "error", "interface")
    assert "there is no interface 'wlan1'; did you mean wlan0? (known interfaces: lo, eth0, wlan0)" in said.what
    assert said.fix.startswith("correct clients.pi-a.interface in lab.yaml")


def test_errors_name_the_host_and_the_step():
    """All that is wrong with it, in one sentence each."""
    from deploy.facts import Finding  # noqa: PLC0415 - beside its only use

    wrong = Choice(None, "x", (Finding("error", "a", "no tc", "get it"), Finding("note", "b", "n", "f")))
    shaping, errors = layers({"pi-a": wrong, "pi-b": Choice(Shaping(layer="relay"), "y")})
    assert shaping == {"pi-b": Shaping(layer="relay")}
    assert str(errors["pi-a"]) == "pi-a: look: no tc (what helps: get it)"


# --- the wishes of a playbook ----------------------------------------------------------------------------------------

BOOK = "playbook: p\napp: flclient.apps.payload\nrounds: 9\n"


def wished(tmp_path: Path, text: str, inventory: Inventory | None = None) -> dict[str, Wish]:
    (tmp_path / "book.yaml").write_text(BOOK + text)
    return wishes(load_playbook(tmp_path / "book.yaml"), (inventory or lab()).clients)


def test_without_links_nothing_is_wished(tmp_path):
    assert wished(tmp_path, "") == {}


def test_each_client_has_its_own_wish(tmp_path):
    """All links that any condition may give it, and the layer of its rule."""
    text = "link: {layer: kernel}\nsweep: {link.delay_ms: [0, 5]}\n"
    found = wished(tmp_path, text + "hosts: [{match: {net: wifi}, link: {rate_mbit: 1}}]\n")
    assert [(name, one.layer, len(one.links)) for name, one in found.items()] == [
        ("pi-a", "kernel", 2),
        ("pi-b", "auto", 1),
    ]
    assert wished(tmp_path, "hosts: [{match: {net: wifi}, link: {rate_mbit: 1}}]\n").keys() == {"pi-b"}


def test_a_link_that_reaches_nobody(tmp_path):
    """Rules replace it for all clients: what it says, or sweeps, would do nothing."""
    rules = "hosts:\n- {match: {net: wifi}, link: {rate_mbit: 1}}\n- {match: {name: pi-a}, link: {rate_mbit: 1}}\n"
    with pytest.raises(InputError, match=r"hosts\[0\]: the playbook's own link is that of no client"):
        wished(tmp_path, rules + "sweep: {link.delay_ms: [0, 5]}\n")
    assert wished(tmp_path, rules).keys() == {"pi-a", "pi-b"}


# --- the look --------------------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """What the hosts of the lab answer to a look, and what they were asked."""

    facts: Callable[..., Facts]
    remotes: dict[str, FakeRemote] = field(default_factory=dict)

    def tell(self, name: str, **health: Any) -> None:
        own = self.facts(stack=name, interfaces=("lo", "eth0"))
        told = {**msgspec.to_builtins(own), "health": msgspec.to_builtins(Health(**health))}

        def listens(argv: tuple[str, ...]) -> bool:
            return argv[2:3] == (hostside.source("listen"),)

        def reaches(argv: tuple[str, ...]) -> bool:
            return argv[2:3] == (hostside.source("reach"),)

        answers = {listens: '{"port":8080}', reaches: '{"problem":""}', (): json.dumps(told)}
        self.remotes[name] = FakeRemote(name, answers)

    def connect(self, one: Host) -> FakeRemote:
        return self.remotes[one.name]

    def asked(self, name: str) -> tuple[str, ...]:
        """Return the last words of the look at a host: the address and the interface."""
        return self.remotes[name].calls[0].argv[-2:]


@pytest.fixture
def answers(facts: Callable[..., Facts]) -> Answers:
    told = Answers(facts)
    told.tell("server")
    told.tell("pi-a", traffic=ABLE)
    told.tell("pi-b", traffic=able(refused=REFUSED))
    return told


class Silent:
    """A view that nobody looks at."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.notes: list[str] = []

    def host(self, name: str, state: str) -> None:
        self.states[name] = state

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_check_says_who_would_shape(answers):
    """In the table by its name; in JSON with the reason; a relay is no reason not to start."""
    checked = check_lab(lab("eth0"), PAYLOAD, answers.connect, wished={"pi-a": wish(), "pi-b": wish()})
    output = StringIO()
    Console(file=output, width=150).print(page(checked), crop=False)
    rows = [line.split()[-1] for line in output.getvalue().splitlines() if line.lstrip().startswith(("server ", "pi-"))]
    assert checked.ok
    assert rows == ["-", "kernel", "relay"]
    assert "the kernel refuses sch_netem: Error: Specified qdisc kind is unknown." in output.getvalue()
    hosts = json.loads(document(checked))["hosts"]
    assert hosts["server"]["link"] is None
    assert hosts["pi-a"]["link"]["shaping"]["layer"] == "kernel"
    assert hosts["pi-b"]["link"]["why"].startswith("the kernel refuses")
    assert [answers.asked(name) for name in ("server", "pi-a", "pi-b")] == [
        ("", ""),
        ("192.0.2.1", "eth0"),
        ("192.0.2.1", "?"),
    ]


def test_check_without_links_asks_no_kernel(answers):
    """And has no column for them."""
    checked = check_lab(lab(), PAYLOAD, answers.connect)
    assert [answers.asked(name)[1] for name in ("server", "pi-a", "pi-b")] == ["", "", ""]
    assert (checked.layers, json.loads(document(checked))["hosts"]["pi-a"]["link"]) == ({}, None)


def test_check_finds_what_keeps_a_campaign_from_starting(answers):
    checked = check_lab(lab("wlan7"), PAYLOAD, answers.connect, wished={"pi-a": wish(), "pi-b": wish("kernel")})
    assert not checked.ok
    assert [[one.code for one in checked.findings[name]] for name in ("pi-a", "pi-b")] == [["interface"], ["netem"]]


def crew(answers: Answers, inventory: Inventory, min_clients: int | None = None) -> Crew:
    return Crew(inventory, answers.remotes, min_clients, Silent())  # type: ignore[arg-type]


def test_a_campaign_knows_who_shapes(answers):
    """After one look at each host; an address of IPv6 is asked for as it is."""
    team = crew(answers, lab(server_address="[2001:db8::1]:8080"))
    team.look(PAYLOAD, {"pi-a": wish(), "pi-b": wish()})
    assert team.shaping == {"pi-a": Shaping(layer="kernel"), "pi-b": Shaping(layer="relay")}
    assert {name: len(remote.calls) for name, remote in answers.remotes.items()} == {"server": 1, "pi-a": 1, "pi-b": 1}
    assert answers.asked("pi-a") == ("2001:db8::1", "?")
    (call,) = answers.remotes["server"].calls
    assert "sudo" not in call.argv[5]


def test_a_kernel_that_cannot_be_had_ends_it_before_the_start(answers):
    """Named by host and step; or the host is left out, if the user said that fewer are enough."""
    with pytest.raises(HostError, match=r"pi-b: look: the playbook asks for layer: kernel, and .* refuses sch_netem"):
        crew(answers, lab()).look(PAYLOAD, {"pi-a": wish("kernel"), "pi-b": wish("kernel")})
    team = crew(answers, lab(), min_clients=1)
    team.look(PAYLOAD, {"pi-a": wish("kernel"), "pi-b": wish("kernel")})
    assert (team.clients, team.shaping) == (("pi-a",), {"pi-a": Shaping(layer="kernel")})


def test_a_campaign_without_links_looks_as_before(answers):
    team = crew(answers, lab())
    team.look(PAYLOAD)
    assert team.shaping == {}
    (call,) = answers.remotes["pi-a"].calls
    assert "def traffic" not in call.argv[5]


# --- the script ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace all programs of administrators by ones that answer so (None: they fail)."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("deploy.hostside.tools.SBIN", ())

    def make(**said: str | None) -> None:
        for name, text in said.items():
            end = "exit 1" if text is None else f"echo '{text}'"
            (tmp_path / name).write_text(f"#!/bin/sh\n{end}\n")
            (tmp_path / name).chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("said", "refused"),
    [("ok", ""), (REFUSED, REFUSED), ("", None), (None, None)],
)
def test_what_the_kernel_says_to_the_rehearsal(tools, said, refused):
    """Nothing refused, or what; where it could not be tried, that is not known."""
    tools(tc="", ip="", unshare=said, sudo=said)
    assert script.refused(root=True, missing=[]) == (refused if sys.platform == "linux" else None)
    assert script.refused(root=False, missing=[]) is None
    assert script.refused(root=True, missing=["tc"]) is None


def test_what_is_missing(tools):
    tools(tc="")
    assert script.traffic("eth0")["missing"] == ["ip"]


def test_qdiscs_of_others(tools):
    """What the kernel makes by itself does not count."""
    tools(
        tc="qdisc mq 0: root \nqdisc fq_codel 0: parent :1 limit 10240p\nqdisc htb 1: root refcnt 2 r2q 10\n"
        "qdisc netem 2: parent 1:1 limit 1000\nqdisc ingress ffff: parent ffff:fff1 ----------------"
    )
    assert script.qdiscs("eth0") == ["htb 1: root", "netem 2: parent", "ingress ffff: parent"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux")
def test_the_rehearsal_leaves_nothing_behind():
    """By this very kernel, whatever it can do: interfaces and qdiscs are as before, and there is an answer."""
    from deploy.hostside.tools import told  # noqa: PLC0415 - beside its only use

    before = told("tc", "qdisc", "show"), look.interfaces("")
    said = script.refused(root=True, missing=[])
    assert said is not None
    assert said == "" or said.partition(":")[0] in script.REHEARSAL
    assert (told("tc", "qdisc", "show"), look.interfaces("")) == before


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux")
def test_processes_that_share_interfaces_are_known_by_it():
    """Another process here has the same stack, one in a network namespace of its own another."""
    ask = [sys.executable, "-c", "from deploy.hostside.look import stack; print(stack(''))"]
    there, apart = (
        subprocess.run([*before, *ask], capture_output=True, text=True, check=True).stdout.strip()
        for before in ([], ["unshare", "--net"])
    )
    assert look.stack("") == there != apart
    assert there.partition(" ")[0] == apart.partition(" ")[0] != ""
