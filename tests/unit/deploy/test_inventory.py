"""Inventory files: what they become, and what a user reads when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import InputError
from deploy.inventory import Inventory, NetnsLab, Python, VirtualLab, load_inventory

REPOSITORY = Path(__file__).parents[3]
LAB = """\
lab: bench
ssh: {user: pi, port: 2022}
server:
  host: 192.0.2.10
clients:
  pi-a: {host: 192.0.2.21}
  pi-b:
    host: 192.0.2.22
"""
VIRTUAL = "lab: v\nprovider: virtual\nclients: 3\n"
NETNS = "lab: n\nprovider: netns\nclients: 2\ncpu: {client-2: 0.25}\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inventory") / "lab.yaml"


def load(file: Path, text: str) -> Inventory:
    file.write_text(text)
    lab = load_inventory(file)
    assert isinstance(lab, Inventory)
    return lab


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def refusal(file: Path, text: str) -> InputError:
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_inventory(file)
    return caught.value


def outcome(file: Path) -> str:
    try:
        load_inventory(file)
    except InputError as error:
        return str(error)
    return "loaded"


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("inventory/*.yaml")), ids=lambda path: path.name)
def test_every_inventory_of_the_repository_loads(path: Path) -> None:
    lab = load_inventory(path)
    assert lab.playbook is not None
    assert lab.playbook.is_file()


def test_the_smallest_lab(file: Path) -> None:
    lab = load(file, LAB)
    assert (lab.file, lab.lab, lab.playbook) == (file, "bench", None)
    assert lab.server_address == "192.0.2.10:8080"
    assert [(host.name, host.role, host.host) for host in lab.hosts] == [
        ("server", "server", "192.0.2.10"),
        ("pi-a", "client", "192.0.2.21"),
        ("pi-b", "client", "192.0.2.22"),
    ]
    assert {host.workdir for host in lab.hosts} == {"~/.fieldlab"}
    assert {host.python for host in lab.hosts} == {Python(manager="uv", path="python3")}


def test_a_hosts_own_keys_win_over_the_defaults(file: Path) -> None:
    own = "host: 192.0.2.22\n    ssh: {user: kim}\n    python: {path: ~/venv}\n    workdir: /srv/fl"
    text = replaced(LAB, "host: 192.0.2.22", own + "\n    labels: {net: wifi}")
    a, b = load(file, text + "workdir: ~/work\npython: {manager: existing, path: python3.12}\n").clients
    assert (a.ssh.user, a.ssh.port, a.python.path, a.workdir, a.labels) == ("pi", 2022, "python3.12", "~/work", {})
    assert (b.ssh.user, b.ssh.port, b.python.path, b.workdir) == ("kim", 2022, "~/venv", "/srv/fl")
    assert b.labels == {"net": "wifi"}


@pytest.mark.parametrize(
    ("lab", "own", "expected"),
    [
        ("{}", "{}", Python(manager="uv")),
        ("{}", "{path: ~/venv}", Python(manager="existing", path="~/venv")),
        ("{}", "{manager: uv, path: python3.12}", Python(manager="uv", path="python3.12")),
        ("{}", "{version: '3.12'}", Python(manager="uv", version="3.12")),
        ("{torch: cpu}", "{version: '3.12'}", Python(manager="uv", version="3.12", torch="cpu")),
        ("{manager: wheelhouse}", "{path: /opt/py}", Python(manager="wheelhouse", path="/opt/py")),
        ("{torch: cpu, version: '3.12'}", "{manager: existing}", Python(manager="existing")),
        ("{path: ~/venv}", "{manager: uv}", Python(manager="uv")),
        ("{manager: uv, torch: cpu}", "{torch: default}", Python(manager="uv")),
    ],
)
def test_how_a_host_comes_by_its_python(file: Path, lab: str, own: str, expected: Python) -> None:
    """A path alone is used as it is, without one uv does it all; a manager of its own inherits nothing."""
    text = replaced(LAB, HOST_B, f"{HOST_B}\n    python: {own}") + f"python: {lab}\n"
    assert load(file, text).clients[1].python == expected


def test_null_takes_a_default_back(file: Path) -> None:
    """A host whose port stands in ~/.ssh/config must be able to have none."""
    lab = load(file, replaced(LAB, "host: 192.0.2.22", "host: 192.0.2.22\n    ssh: {port: null}"))
    assert lab.clients[1].ssh.port is None
    assert lab.clients[1].ssh.user == "pi"


def test_paths_are_relative_to_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = replaced(LAB, "user: pi", "user: pi, identity_file: ~/.ssh/id, known_hosts: keys/known")
    lab = load(file, text + "playbook: ../playbooks/p.yaml\n")
    assert lab.server.ssh.identity_file == "/home/me/.ssh/id"
    assert lab.server.ssh.known_hosts == str(file.parent / "keys" / "known")
    assert lab.playbook == file.parent.parent / "playbooks" / "p.yaml"


@pytest.mark.parametrize(
    ("host", "address"),
    [("pc.local", "pc.local:8080"), ("fe80::1%eth0", "[fe80::1%eth0]:8080"), ("'::1'", "[::1]:8080")],
)
def test_the_default_server_address(file: Path, host: str, address: str) -> None:
    assert load(file, replaced(LAB, "192.0.2.10", host)).server_address == address


@pytest.mark.parametrize("address", ["10.0.0.1:1", "pc.local:65535", "[2001:db8::1]:8080"])
def test_good_server_addresses(file: Path, address: str) -> None:
    text = replaced(LAB, "host: 192.0.2.10", f"host: 192.0.2.10\n  address: '{address}'")
    assert load(file, text).server_address == address


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.999:80", "0.0.0.0:80", "a:80x", "a:80\n"),
        *("2001:db8::1:8080", "[zz]:80", "[::]:80", "[1.2.3]:80", ":80", "a b:80", "http://a:80", "", "-a:80"),
    ],
)
def test_bad_server_addresses(file: Path, address: str) -> None:
    text = replaced(LAB, "host: 192.0.2.10", f"host: 192.0.2.10\n  address: {address!r}".replace("'", '"'))
    error = refusal(file, text)
    assert (error.line, error.key) == (5, "server.address")
    assert "address:port or [IPv6 address]:port" in str(error)
    assert "192.0.2.10:8080" in str(error)


def test_a_virtual_lab(file: Path) -> None:
    file.write_text(VIRTUAL)
    assert load_inventory(file) == VirtualLab(file=file, lab="v", playbook=None, clients=3)


HOST_B = "host: 192.0.2.22"
REFUSALS = [
    (HOST_B, "hots: 192.0.2.22", 8, "clients.pi-b.hots", ["did you mean host?", "ssh, python, workdir, labels"]),
    (HOST_B, "ssh: {user: x}", 7, "clients.pi-b.host", ["is missing"]),
    (HOST_B, f"{HOST_B}\n    iface: wlan0", 9, "clients.pi-b.iface", ["did you mean interface?", "labels"]),
    (HOST_B, f"{HOST_B}\n    interface: a/b", 9, "clients.pi-b.interface", ["a network interface", "not 'a/b'"]),
    (HOST_B, f"{HOST_B}\n    interface: -i", 9, "clients.pi-b.interface", ["a network interface"]),
    ("host: 192.0.2.10", "host: 192.0.2.10\n  interface: eth0", 5, "server.interface", ["unknown key"]),
    (HOST_B, f"{HOST_B}\n    ssh: {{port: 0}}", 9, "clients.pi-b.ssh.port", ["from 1 to 65535, not 0"]),
    (HOST_B, f"{HOST_B}\n    ssh: {{port: '22'}}", 9, "clients.pi-b.ssh.port", ["a whole number", "not '22'"]),
    (HOST_B, f"{HOST_B}\n    ssh: {{gateway: gw}}", 9, "clients.pi-b.ssh.gateway", ["unknown key", "jump"]),
    (HOST_B, f"{HOST_B}\n    ssh: {{user: -oX}}", 9, "clients.pi-b.ssh.user", ["a login name", "'-oX'"]),
    (HOST_B, f"{HOST_B}\n    ssh: {{password: x}}", 9, "clients.pi-b.ssh.password", ["never in YAML", "identity_file"]),
    (
        HOST_B,
        f"{HOST_B}\n    python: {{manager: u}}",
        9,
        "clients.pi-b.python.manager",
        ["existing, uv, wheelhouse, not 'u'"],
    ),
    (HOST_B, f"{HOST_B}\n    python: {{version: 3.12}}", 9, "clients.pi-b.python.version", ['in quotes, "3.11" or la']),
    (HOST_B, f"{HOST_B}\n    python: {{version: '3.10'}}", 9, "clients.pi-b.python.version", ["not '3.10'"]),
    (
        HOST_B,
        f"{HOST_B}\n    python: {{manager: wheelhouse, version: '3.12'}}",
        9,
        "clients.pi-b.python.version",
        ["the manager is wheelhouse", "give path instead, or manager: uv"],
    ),
    (
        HOST_B,
        f"{HOST_B}\n    python: {{path: ~/venv, version: '3.12'}}",
        9,
        "clients.pi-b.python.version",
        ["the manager is existing"],
    ),
    (
        HOST_B,
        f"{HOST_B}\n    python: {{manager: uv, path: python3, version: '3.12'}}",
        9,
        "clients.pi-b.python.version",
        ["and so does path: give one of the two"],
    ),
    (
        HOST_B,
        f"{HOST_B}\n    python: {{path: ~/venv, torch: cpu}}",
        9,
        "clients.pi-b.python.torch",
        ["what exists is used as it is", "leave it out, or give manager: uv or wheelhouse"],
    ),
    (HOST_B, f"{HOST_B}\n    python: {{torch: cuda}}", 9, "clients.pi-b.python.torch", ["cpu, default, not 'cuda'"]),
    (HOST_B, f"{HOST_B}\n    python: {{path: a b}}", 9, "clients.pi-b.python.path", ["without spaces"]),
    (HOST_B, f"{HOST_B}\n    workdir: work", 9, "clients.pi-b.workdir", ["/… or ~/…"]),
    (HOST_B, f"{HOST_B}\n    labels: {{board: 4}}", 9, "clients.pi-b.labels.board", ["text, not 4", "quotes"]),
    (HOST_B, f"{HOST_B}\n    labels: {{a/b: c}}", 9, "clients.pi-b.labels.a/b", ["the name 'a/b' must be letters"]),
    (HOST_B, "host: 192.0.2.21", 7, "clients.pi-b", ["duplicate host", "clients.pi-a (line 6)"]),
    (HOST_B, "host: 192.0.2.10", 7, "clients.pi-b", ["duplicate host", "server (line 3)"]),
    ("  pi-b:", "  server:", 7, "clients.server", ["duplicate host", "server (line 3)"]),
    ("  pi-b:", "  pi-a:", 7, "clients.pi-a", ["duplicate key", "line 6"]),
    ("  pi-b:", "  no:", 7, "clients", ["the key `no`", "put it in quotes"]),
    ("  pi-b:", "  pi b:", 7, "clients.pi b", ["the name 'pi b' must be letters, digits"]),
    ("  pi-b:", "  ../x:", 7, "clients.../x", ["the name '../x' must be letters, digits"]),
    ("lab: bench", "lab: 1", 1, "lab", ["letters, digits", "(put text in quotes)"]),
    ("lab: bench", f"lab: {'x' * 64}", 1, "lab", ["at most 63 characters"]),
    ("lab: bench", "lbl: bench", 1, "lbl", ["known keys: lab, playbook, server, clients, ssh, python, workdir"]),
    ("lab: bench\n", "", 1, "lab", ["is missing"]),
    ("user: pi", "usr: pi", 2, "ssh.usr", ["did you mean user?"]),
    ("user: pi", "connect_timeout_s: 0", 2, "ssh.connect_timeout_s", ["above 0 and at most 600, not 0"]),
    ("user: pi", "identity_file: ~no-such-user/x", 2, "ssh.identity_file", ["no user 'no-such-user'"]),
    ("user: pi", "identity_file: ''", 2, "ssh.identity_file", ["must be a path"]),
    ("lab: bench", "lab: bench\nprovider: virtual", 4, "server", ["the same thing is said twice", "`provider`"]),
    ("lab: bench", "lab: bench\nhosts: []", 2, "hosts", ["unknown key"]),
    ("server:", "sevrer:", 3, "sevrer", ["did you mean server?"]),
    (LAB[LAB.index("clients") :], "clients: 3\n", 5, "clients", ["`provider: virtual`"]),
    (LAB[LAB.index("clients") :], "clients: {}\n", 5, "clients", ["at least one client"]),
    (LAB[LAB.index("clients") :], "clients: [pi-a]\n", 5, "clients", ["must be a mapping", "not a list"]),
    (LAB[LAB.index("clients") :], "clients:\n", 5, "clients", ["must be a mapping", "not empty"]),
    (LAB[LAB.index("clients") :], "", 1, "clients", ["is missing"]),
]


def test_a_clients_interface(file: Path) -> None:
    """Empty where nobody says: then it is that of the route to the server."""
    file.write_text(replaced(LAB, HOST_B, f"{HOST_B}\n    interface: wlan0"))
    lab = load_inventory(file)
    assert isinstance(lab, Inventory)
    assert [host.interface for host in lab.hosts] == ["", "", "wlan0"]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case[3])
def test_refusals(file: Path, case: tuple[str, str, int, str, list[str]]) -> None:
    """Every error names file, line and dotted key, and says what would be right."""
    old, new, line, key, words = case
    error = refusal(file, replaced(LAB, old, new))
    assert (error.file, error.line, error.key) == (file, line, key)
    assert str(error).startswith(f"{file}:{line}: {key}: ")
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize(
    "host", ["a b", "a;b", "$(x)", "a`x`", "-oProxyCommand=x", "a|b", "a/b", "u@h", "a\\n", "", "ü.de"]
)
def test_hosts_refuse_spaces_and_shell_characters(file: Path, host: str) -> None:
    error = refusal(file, replaced(LAB, "host: 192.0.2.10", f'host: "{host}"'))
    assert (error.line, error.key) == (4, "server.host")
    assert "a host name or an IP address" in str(error)


@pytest.mark.parametrize(
    "case",
    [
        ("clients: 3", "clients: 0", 3, "clients", "from 1 to 200, not 0"),
        ("clients: 3", "clients: three", 3, "clients", "a whole number from 1 to 200, not 'three'"),
        ("clients: 3", "clients: {a: {host: b}}", 3, "clients", "the same thing is said twice"),
        ("clients: 3\n", "", 1, "clients", "is missing"),
        ("virtual", "nets", 2, "provider", "must be one of netns, virtual, not 'nets'; did you mean netns?"),
        ("clients: 3", "clients: 3\ncpu: {client-1: 1}", 4, "cpu", "needs `provider: netns`"),
        ("lab: v", "lab: v\nssh: {user: pi}", 2, "ssh", "known keys: lab, playbook, provider, clients"),
    ],
)
def test_refusals_of_virtual_labs(file: Path, case: tuple[str, str, int, str, str]) -> None:
    old, new, line, key, words = case
    error = refusal(file, replaced(VIRTUAL, old, new))
    assert (error.line, error.key) == (line, key)
    assert words in str(error)


def test_a_netns_lab(file: Path) -> None:
    """The names of its hosts are those that `cpu` may name."""
    file.write_text(NETNS + "playbook: p.yaml\n")
    lab = load_inventory(file)
    wanted = NetnsLab(file=file, lab="n", playbook=file.parent / "p.yaml", clients=2, cpu={"client-2": 0.25})
    assert lab == wanted
    assert wanted.names == ("server", "client-1", "client-2")


@pytest.mark.parametrize(
    "case",
    [
        ("clients: 2", "clients: 0", 3, "clients", "from 1 to 200, not 0"),
        ("clients: 2", "clients: 201", 3, "clients", "from 1 to 200, not 201"),
        ("clients: 2", "clients: {a: {host: b}}", 3, "clients", "the same thing is said twice"),
        ("0.25", "0", 4, "cpu.client-2", "a number from 0.01 to 1024, not 0"),
        ("0.25", "-1", 4, "cpu.client-2", "a number from 0.01 to 1024, not -1"),
        ("0.25", "half", 4, "cpu.client-2", "a number from 0.01 to 1024, not 'half'"),
        ("{client-2: 0.25}", "0.25", 4, "cpu", "a mapping (key: value), not 0.25"),
        ("client-2", "client-3", 4, "cpu.client-3", "did you mean client-2? (known hosts: server, client-1, client-2)"),
        ("client-2: 0.25", "client-2: 0.25, client-2: 1", 4, "cpu.client-2", "duplicate key"),
        ("lab: n", "lab: n\nworkdir: /x", 2, "workdir", "known keys: lab, playbook, provider, clients, cpu"),
    ],
)
def test_refusals_of_netns_labs(file: Path, case: tuple[str, str, int, str, str]) -> None:
    """Every error names file, line and dotted key, and says what would be right."""
    old, new, line, key, words = case
    error = refusal(file, replaced(NETNS, old, new))
    assert (error.line, error.key) == (line, key)
    assert words in str(error)


def test_one_machine_may_serve_two_users(file: Path) -> None:
    text = replaced(LAB, HOST_B, "host: 192.0.2.21\n    ssh: {user: other}")
    assert {host.host for host in load(file, text).clients} == {"192.0.2.21"}


def test_port_22_is_the_default_port(file: Path) -> None:
    text = replaced(replaced(LAB, ", port: 2022", ""), HOST_B, "host: 192.0.2.21\n    ssh: {port: 22}")
    assert "duplicate host" in str(refusal(file, text))


SOURCES = [(REPOSITORY / "inventory" / "lab.yaml").read_text(), LAB, VIRTUAL, NETNS]
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


JUMPS = ["gw", "kim@gw", "gw:2222", "kim@gw.example.org:22,inner", "[2001:db8::1]:22", "kim@[fe80::1%eth0]", "none"]


@pytest.mark.parametrize("jump", JUMPS)
def test_jump_hosts_are_written_as_for_openssh(file: Path, jump: str) -> None:
    lab = load(file, replaced(LAB, "user: pi", f"user: pi, jump: '{jump}'"))
    assert all(host.ssh.jump == jump for host in lab.hosts)


@pytest.mark.parametrize("jump", ["", "gw;id", "-oProxyCommand=x", "a b", "gw,", "2001:db8::1", "kim@", "gw:port"])
def test_no_other_jump_hosts(file: Path, jump: str) -> None:
    assert "jump host" in str(refusal(file, replaced(LAB, "user: pi", f"user: pi, jump: '{jump}'")))


def test_a_password_may_be_asked_for(file: Path) -> None:
    """The one value that is no secret."""
    lab = load(file, replaced(LAB, "user: pi", "user: pi, password: prompt"))
    assert {host.ssh.password for host in lab.hosts} == {"prompt"}


def test_known_hosts_lies_beside_the_inventory(file: Path) -> None:
    """Whether it exists or not, so that `deploy trust` knows what to write; every host knows its inventory."""
    lab = load(file, LAB)
    assert {host.ssh.known_hosts for host in lab.hosts} == {str(file.parent / "known_hosts")}
    assert {host.inventory for host in lab.hosts} == {str(file)}


@pytest.mark.parametrize("address", ["2001:db8::7", "fe80::1%eth0", "::1"])
def test_ipv6_addresses(file: Path, address: str) -> None:
    assert load(file, replaced(LAB, "192.0.2.10", f"'{address}'")).server.host == address


@pytest.mark.parametrize("address", ["192.0.2.1:22", "pi-a:2222", "fe80::zz"])
def test_an_address_has_no_port(file: Path, address: str) -> None:
    assert "a port stands in ssh" in str(refusal(file, replaced(LAB, "192.0.2.10", f"'{address}'")))
