"""The app that a playbook names: what it becomes, which of its files are pushed, what a user reads if it is wrong."""

from __future__ import annotations

import importlib.metadata
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common import constant
from flwr.common.config import flatten_dict
from hypothesis import given
from hypothesis import strategies as st

from deploy import appfiles
from deploy.app import App, embedded, resolve
from deploy.appfiles import project_files
from deploy.bundle import make_bundle
from deploy.errors import InputError
from deploy.plan import make_plan
from deploy.playbook import load_playbook
from deploy.pyproject import read_project
from deploy.yamlfile import Node
from flcommon.job import AppRef

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROJECT = """\
[project]
name = "mine"
dependencies = ["flwr[simulation]>=1.22.0", "scikit-learn>=1.5"]

[tool.flwr.app]
publisher = "me"

[tool.flwr.app.components]
serverapp = "mine.server_app:app"
clientapp = "mine.client_app:app"

[tool.flwr.app.config]
num-server-rounds = 7
lr = 0.1
seed = 3

[tool.flwr.app.config.data]
name = "digits"
"""


FLOWERS_OWN = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
"""flwr 1.42 uses what its own dependency deprecates."""


class Place:
    """A directory with a Flower app in `my-app`, and a playbook beside it."""

    def __init__(self, root: Path) -> None:
        self.root, self.app = root, root / "my-app"
        self.write("mine/__init__.py", "mine/client_app.py", "mine/server_app.py")
        self.project(PROJECT)

    def write(self, *names: str, text: str = "") -> None:
        for name in names:
            (self.app / name).parent.mkdir(parents=True, exist_ok=True)
            (self.app / name).write_text(text)

    def project(self, text: str) -> None:
        self.write("pyproject.toml", text=text)

    def resolve(self, name: str = "my-app") -> App:
        return resolve(Node(self.root / "book.yaml", 2, "app", name))

    def load(self, *lines: str) -> Any:
        (self.root / "book.yaml").write_text("\n".join(["playbook: p", "app: my-app", *lines]))
        return load_playbook(self.root / "book.yaml")

    def plan(self, *lines: str) -> Any:
        return make_plan(self.load(*lines), ["a", "b"])

    def refusal(self, action: Callable, *arguments: str) -> InputError:
        with pytest.raises(InputError) as caught:
            action(*arguments)
        return caught.value


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- what it becomes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my-app", "./my-app", "my-app/", "mine/../my-app", "{root}/my-app"])
def test_a_directory_is_found_from_the_playbooks_own(place: Place, name: str) -> None:
    """Not from where `deploy` is typed; absolute paths will do as well."""
    (place.root / "mine").mkdir()
    app = place.resolve(name.format(root=place.root))
    assert app.ref == AppRef(client="mine.client_app:app", server="mine.server_app:app", directory="app")
    assert app.directory == place.app.resolve()
    assert app.defaults == {"num-server-rounds": 7, "lr": 0.1, "seed": 3, "data.name": "digits"}
    assert app.dependencies == ("flwr[simulation]>=1.22.0", "scikit-learn>=1.5")
    assert not app.embedded


def test_the_config_is_flattened_as_flower_does_it(place: Place) -> None:
    """Flower's own function is the truth; only the test imports it."""
    place.project(PROJECT + "[tool.flwr.app.config.a.b]\nc = true\nd.e = 'x'\n")
    config = tomllib.loads((place.app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert place.resolve().defaults == flatten_dict(config)


def test_an_embedded_app_goes_before_a_directory_of_its_name(place: Place) -> None:
    """The names of the toolkit's own apps mean what they mean everywhere."""
    (place.root / "flclient.apps.payload").symlink_to(place.app)
    assert place.resolve("flclient.apps.payload") == embedded("flclient.apps.payload")
    assert embedded("flclient.apps.payload").files() == {}


def test_a_package_of_this_machine_is_an_app(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found without being imported, and its top-level package is pushed as it is."""
    text = "raise AssertionError('imported')\n"
    for name in ("__init__.py", "fl/__init__.py", "fl/client_app.py", "fl/server_app.py", "data.bin"):
        place.write(f"../site/package_of_a_test/{name}", text=text)
    monkeypatch.syspath_prepend(place.root / "site")
    app = place.resolve("package_of_a_test.fl")
    assert app.ref == AppRef(client="package_of_a_test.fl.client_app:app", server="package_of_a_test.fl.server_app:app")
    assert (app.package, app.defaults, app.dependencies, app.embedded) == ("package_of_a_test", None, (), False)
    assert "package_of_a_test/data.bin" in app.files()
    names = [file.name for file in make_bundle({}, app.files()).files]
    assert names == sorted(app.files())
    with pytest.raises(InputError, match="unknown app 'package_of_a_test' "):
        place.resolve("package_of_a_test")


def test_a_packages_needs_are_its_distributions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the distribution requires goes to the hosts, but not what its extras do."""
    for name in ("package_of_a_test/__init__.py", "package_of_a_test/client_app.py", "package_of_a_test/server_app.py"):
        place.write(f"../site/{name}")
    meta = "../site/dist_of_a_test-1.0.dist-info"
    requires = "Requires-Dist: scipy>=1.10\nRequires-Dist: pytest; extra == 'test'\n"
    place.write(f"{meta}/METADATA", text=f"Metadata-Version: 2.1\nName: dist-of-a-test\nVersion: 1.0\n{requires}\n")
    place.write(f"{meta}/top_level.txt", text="package_of_a_test\n")
    monkeypatch.syspath_prepend(place.root / "site")
    assert importlib.metadata.version("dist-of-a-test") == "1.0"
    assert place.resolve("package_of_a_test").dependencies == ("scipy>=1.10",)


# --- run_config and rounds --------------------------------------------------------------------------------------------


def test_the_playbook_goes_before_the_apps_own_config(place: Place) -> None:
    """Defaults, then run_config, then the sweep, then rounds and seed, which the toolkit sets."""
    plan = place.plan(
        "rounds: 2", "run_config: {lr: 0.5, data.name: cifar}", "sweep: {run_config.lr: [1, 2]}", "order: listed"
    )
    first, second = plan.trials
    assert first.run_config == {"num-server-rounds": 2, "lr": 1, "seed": first.seed, "data.name": "cifar"}
    assert (second.run_config["lr"], second.rounds) == (2, 2)
    assert plan.server_job("c", host="s", listen="x:0").app.directory == "app"


def test_the_apps_own_rounds_count_without_the_playbooks(place: Place) -> None:
    """The warm-up sets them too: the app knows the key."""
    plan = place.plan()
    assert [trial.rounds for trial in plan.trials] == [7]
    assert (plan.warmup.rounds, plan.warmup.run_config["num-server-rounds"]) == (1, 1)


def test_an_app_without_the_key_has_rounds_of_its_own(place: Place) -> None:
    """Nobody knows how many: 0. There is no warm-up, which would be a whole trial; nothing is expected of delays."""
    place.project(PROJECT.replace("num-server-rounds = 7\n", "").replace("seed = 3", "seed = 'a'"))
    plan = place.plan("delay: {probability: 1, seconds: 3}")
    (trial,) = plan.trials
    assert (trial.rounds, plan.warmup, plan.expected_injected_s()) == (0, None, 0)
    assert trial.run_config == {"lr": 0.1, "seed": "a", "data.name": "digits"}
    error = place.refusal(place.load, "rounds: 3")
    assert (error.line, error.key) == (3, "rounds")
    assert "the app's own config has no num-server-rounds to set" in str(error)
    error = place.refusal(place.load, "sweep: {rounds: [1, 2]}")
    assert error.key == "sweep.rounds"


def test_an_app_without_a_config_takes_any_key(place: Place) -> None:
    """Nobody has said what it knows; only rounds and seed cannot be set then."""
    place.project(PROJECT.partition("[tool.flwr.app.config]")[0])
    (trial,) = place.plan("run_config: {anything: 1}").trials
    assert (trial.run_config, trial.rounds) == ({"anything": 1}, 0)


@pytest.mark.parametrize(
    ("lines", "key", "words"),
    [
        (["run_config: {lrr: 1}"], "run_config.lrr", ["no such key", "did you mean lr?", "known keys: ", "data.name"]),
        (["sweep: {run_config.lrr: [1]}"], "sweep.run_config.lrr", ["no such key", "pyproject.toml"]),
        (["run_config: {num-server-rounds: 1}"], "run_config.num-server-rounds", ["said twice", "`rounds`"]),
        (["run_config: {seed: 1}"], "run_config.seed", ["said twice", "`seed`"]),
        (["data: {set: digits}"], "data", ["is for app: flclient.apps.cifar10 alone"]),
        (["sweep: {data.set: [digits]}"], "sweep.data.set", ["is for app: flclient.apps.cifar10 alone"]),
    ],
)
def test_what_the_app_does_not_know_is_an_error(place: Place, lines: list[str], key: str, words: list[str]) -> None:
    """It names the file, the line and the key, and what is known."""
    error = place.refusal(place.load, *lines)
    assert (error.file, error.line, error.key) == (place.root / "book.yaml", 3, key)
    assert all(word in str(error) for word in words), str(error)


def test_rounds_may_be_left_out_for_directories_alone(place: Place) -> None:
    """Of an embedded app the playbook says it."""
    (place.root / "book.yaml").write_text("playbook: p\napp: flclient.apps.payload\n")
    assert str(place.refusal(load_playbook, place.root / "book.yaml")).endswith("rounds: is missing")


# --- what is wrong with an app ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other", "unknown app 'other' (known apps: "),
        ("os", "unknown app 'os' (known apps: "),
        ("json.tool", "unknown app 'json.tool' (known apps: "),
        ("./other", "no Flower app in "),
        ("~nobody-of-that-name/app", "no such directory"),
        ("a/" + "x" * 300, "no Flower app in "),
        ("__main__", "unknown app '__main__' (known apps: "),
        ("", "unknown app '' (known apps: "),
    ],
)
def test_a_name_that_leads_nowhere(place: Place, name: str, words: str) -> None:
    """The error stands at the playbook's line."""
    error = place.refusal(place.resolve, name)
    assert (error.file, error.line, error.key) == (place.root / "book.yaml", 2, "app")
    assert words in str(error)


@pytest.mark.parametrize(
    ("old", "new", "place_of", "words"),
    [
        ("lr = 0.1", "lr = ", (14, ""), "is not TOML: Invalid value"),
        (
            "[tool.flwr.app.components]",
            "[tool.flwr.app.parts]",
            (5, "tool.flwr.app.components.clientapp"),
            "is missing",
        ),
        ('serverapp = "mine.server_app:app"\n', "", (8, "tool.flwr.app.components.serverapp"), "is missing"),
        ("mine.client_app:app", "mine.client_app", (10, "tool.flwr.app.components.clientapp"), "must be of the form"),
        ('"mine.client_app:app"', "3", (10, "tool.flwr.app.components.clientapp"), "not 3"),
        ("mine.client_app:app", "mine/client_app.py:app", (10, "tool.flwr.app.components.clientapp"), "of the form"),
        (
            "mine.client_app:app",
            "mine.client:app",
            (10, "tool.flwr.app.components.clientapp"),
            "no mine/client.py beside",
        ),
        ("lr = 0.1", "lr = [0.1]", (14, "tool.flwr.app.config.lr"), "must be a number, text, true or false"),
        ("lr = 0.1", "lr = 1979-05-27", (14, "tool.flwr.app.config.lr"), "must be a number, text, true or false"),
        ("lr = 0.1", "lr = nan", (14, "tool.flwr.app.config.lr"), "must be a finite number"),
        ("lr = 0.1", "lr = 9223372036854775808", (14, "tool.flwr.app.config.lr"), "is too large"),
        ('name = "digits"', "name = []", (18, "tool.flwr.app.config.data.name"), "must be a number, text"),
        ('"scikit-learn>=1.5"', '"scikit learn"', (3, "project.dependencies"), "'scikit learn' is no requirement"),
        ('"scikit-learn>=1.5"', "3", (3, "project.dependencies"), "3 is no requirement"),
        ('publisher = "me"', "fab-include = []", (6, "tool.flwr.app.fab-include"), "must be a list of patterns"),
        ('publisher = "me"', 'fab-exclude = ["*.gone"]', (6, "tool.flwr.app.fab-exclude"), "matches no file"),
        ("[tool.flwr.app]\n", "[tool.flwr]\napp = 3\n[other]\n", (None, ""), ""),
    ],
)
def test_what_is_wrong_in_a_pyproject(place: Place, old: str, new: str, place_of: tuple[int, str], words: str) -> None:
    """File, line and key; tomllib does not tell lines, so that the nearest table's is as good as it gets."""
    assert PROJECT.count(old) == 1
    place.project(PROJECT.replace(old, new))
    error = place.refusal(place.resolve)
    assert error.file == place.app.resolve() / "pyproject.toml"
    if words:
        assert (error.line, error.key) == place_of, str(error)
        assert words in str(error)


def test_a_module_that_the_rules_leave_out_is_named(place: Place) -> None:
    """It is there, so `there is no such file` would be no help."""
    place.write(".gitignore", text="mine/server_app.py\n")
    error = place.refusal(place.resolve)
    assert error.key == "tool.flwr.app.components.serverapp"
    assert "mine/server_app.py is not part of the app: .gitignore" in str(error)


@given(text=st.text(max_size=60), start=st.integers(0, len(PROJECT)), length=st.integers(0, 20))
def test_no_pyproject_makes_anything_but_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, start: int, length: int
) -> None:
    """Whatever stands in the file, it is read or it is an error in one sentence."""
    file = tmp_path_factory.getbasetemp() / "mutated.toml"
    file.write_bytes((PROJECT[:start] + text + PROJECT[start + length :]).encode(errors="surrogatepass"))
    try:
        project = read_project(file)
    except InputError as error:
        assert error.file == file  # noqa: PT017 - either outcome is right
    else:
        assert set(project.components) == {"clientapp", "serverapp"}


# --- files ------------------------------------------------------------------------------------------------------------


@FLOWERS_OWN
def test_the_rules_are_flowers(place: Place) -> None:
    """Patterns, and the files that they choose, are those of `flwr build`, but for pyproject.toml as it is."""
    assert set(appfiles.INCLUDED) == set(constant.FAB_INCLUDE_PATTERNS)
    assert set(appfiles.EXCLUDED) == set(constant.FAB_EXCLUDE_PATTERNS) - {"pyproject.toml"}
    place.project(PROJECT.replace('name = "mine"', 'name = "mine"\nversion = "1"'))
    place.write(
        "mine/data.npz", "mine/conf.yaml", "mine/x.json", "mine/test_it.py", "mine/it_test.py", "LICENSE", "a.md"
    )
    place.write("lib/x.py", "mine/lib/x.py", "build/x.py", "ignored/x.py", "mine/kept.py", "mine/__pycache__/x.py")
    place.write(".gitignore", text="ignored/\n*.json\n!mine/kept.py\n# a comment\n\n")
    place.write(".venv/lib/y.py", "env/y.py")
    assert set(project_files(place.app)) == fab_names(place.app)


@FLOWERS_OWN
@pytest.mark.parametrize(
    "rules",
    ['fab-include = ["mine/**/*.py"]', 'fab-exclude = ["a.md"]', 'fab-include = ["**/*.py"]\nfab-exclude = ["x.py"]'],
)
def test_the_users_patterns_are_flowers_too(place: Place, rules: str) -> None:
    text = PROJECT.replace('publisher = "me"', f'publisher = "me"\n{rules}').replace(
        "[project]", "[project]\nversion = '1'"
    )
    place.project(text)
    place.write("a.md", "x.py", "mine/sub/y.py")
    assert set(project_files(place.app)) == fab_names(place.app)


def fab_names(app: Path) -> set[str]:
    """Return what `flwr build` puts into its bundle."""
    import io  # noqa: PLC0415
    import zipfile  # noqa: PLC0415

    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))) as archive:
        return set(archive.namelist()) - {".info/CONTENT"}


def test_what_is_no_part_of_an_app_is_not_even_entered(place: Place) -> None:
    """An environment of any name, and the runs of a `deploy up` that was typed in here."""
    place.write("my-env/pyvenv.cfg", "my-env/lib/x.py", "runs/lab/p-1/manifest.json", "runs/lab/p-1/raw/s/events.jsonl")
    (place.app / "everything").symlink_to("/")
    (place.app / "linked.py").symlink_to(place.app / "mine" / "client_app.py")
    names = set(project_files(place.app))
    assert names == {"pyproject.toml", "mine/__init__.py", "mine/client_app.py", "mine/server_app.py"}


def test_an_app_that_is_too_large_names_what_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data does not belong into the code of every run."""
    monkeypatch.setattr(appfiles, "MOST_BYTES", 2 * 2**20)
    place.write("mine/small.json", text="1")
    place.write("mine/big.json", text="1" * 3 * 2**20)
    error = place.refusal(place.resolve)
    assert "holds 3 MB in 6 files, and at most 2 MB are pushed; the largest: mine/big.json (3.0 MB)" in str(error)


def test_the_bundle_holds_the_app_beside_the_toolkit(place: Place) -> None:
    """Byte for byte, below `app/`; an edit of the app makes another bundle."""
    app = place.resolve()
    before = make_bundle(files=app.files())
    names = [file.name for file in before.files]
    assert "flclient/session.py" in names
    assert "app/mine/client_app.py" in names
    (toml,) = (file for file in before.files if file.name == "app/pyproject.toml")
    assert before.contents[toml.sha256] == (place.app / "pyproject.toml").read_bytes()
    assert make_bundle(files=app.files()).digest == before.digest
    place.write("mine/client_app.py", text="# edited\n")
    assert make_bundle(files=app.files()).digest != before.digest
