"""What README, docs and examples say is true: every YAML loads, every link leads somewhere, every word is explained."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path

import msgspec
import pytest
import typer
import yaml

from deploy import errors, inventory, playbook, settings
from deploy.analysis.columns import SPANS, STEPS, Table
from deploy.analysis.export.columns import TABLES
from deploy.analysis.trace.write import LIMIT
from deploy.cli import EXIT_CODES, app
from deploy.errors import DeployError
from deploy.inventory import load_inventory
from deploy.playbook import load_playbook
from flcommon import events
from flcommon.delay import Constant, Delay, Seconds, Trace
from flcommon.job import Stop
from flcommon.link import Burst, Way

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").rglob("*.md"))]
REFERENCE = README.read_text() + (REPOSITORY / "docs" / "reference.md").read_text()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return a page's YAML blocks, each with its place for the test's name; a list may indent them."""
    text = page.read_text()
    found = re.finditer(r"^(?P<indent> *)```ya?ml\n(?P<body>.*?)^(?P=indent)```", text, re.DOTALL | re.MULTILINE)
    return [
        (f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}", textwrap.dedent(match["body"])) for match in found
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def verbs() -> list[str]:
    return sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def load(file: Path) -> None:
    """Load a file as what it is: an inventory has a lab, a playbook has none."""
    (load_inventory if "lab" in yaml.safe_load(file.read_text()) else load_playbook)(file)


@pytest.mark.parametrize("body", [pytest.param(body, id=place) for place, body in BLOCKS])
def test_every_example_of_the_documentation_loads(tmp_path, body):
    """By the real loader; files and apps that it names are there."""
    place = tmp_path / "here"
    place.mkdir()
    for name in re.findall(r"\bfile: *([\w./-]+)", body):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("time_s,delay_ms\n0,1\n" if name.endswith(".csv") else "1\n")
    for name in re.findall(r"^app: *(\.[\w./-]+)", body, re.MULTILINE):
        shutil.copytree(REPOSITORY / "tests" / "apps" / "quickstart", place / name)
    (place / "example.yaml").write_text(body)
    load(place / "example.yaml")


def test_the_readme_shows_an_inventory_and_a_playbook():
    """The test before this one has something to load."""
    kinds = ["lab" in yaml.safe_load(body) for place, body in BLOCKS if place.startswith("README")]
    assert set(kinds) == {True, False}


@pytest.mark.parametrize(
    "file",
    sorted([*REPOSITORY.glob("inventory/*"), *REPOSITORY.glob("playbooks/*")]),
    ids=lambda file: f"{file.parent.name}/{file.name}",
)
def test_every_example_file_loads(file):
    """Nothing else lies in these folders than YAML that loads (and the traces that it names)."""
    if file.suffix in (".yaml", ".yml"):
        load(file)
    else:
        named = [text.read_text() for text in file.parent.glob("*.y*ml")]
        assert any(file.name in text for text in named), f"{file.name} is used by nothing"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_relative_links_lead_somewhere(page):
    """From where the page is."""
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    gone = {target for target in targets if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists()}
    assert not gone


def test_every_verb_is_in_the_readme():
    """And the README knows no others."""
    assert set(re.findall(r"^\| `deploy (\w+)", README.read_text(), re.MULTILINE)) == set(verbs())


def keys(*structs: type[msgspec.Struct]) -> list[str]:
    return sorted({field.encode_name for struct in structs for field in msgspec.structs.fields(struct)})


@pytest.mark.parametrize("key", keys(inventory._LabFile, inventory._VirtualFile, inventory._NetnsFile, playbook._File))
def test_every_key_of_the_files_is_explained(key):
    """Each top-level key that a loader knows stands in the reference or in the README, marked as code."""
    assert re.search(rf"`{key}[`.:]", REFERENCE)


SECTIONS = {
    "ssh": inventory.Ssh,
    "python": inventory.Python,
    "data": settings.Data,
    "stop": Stop,
    "delay": Delay,
    "transport": playbook.TransportSection,
    "link": Way,
    "link.loss_burst": Burst,
}


@pytest.mark.parametrize("key", [f"{name}.{key}" for name, struct in SECTIONS.items() for key in keys(struct)])
def test_every_key_of_the_sections_is_explained(key):
    """By its dotted name, as error messages write it."""
    assert f"`{key}`" in REFERENCE


def test_every_distribution_is_explained():
    """With each of its parameters; a constant is a bare number."""
    for kind in set(Seconds.__args__) - {Constant, Trace}:
        (row,) = re.findall(rf"^\| `{kind.__struct_config__.tag}` .*", REFERENCE, re.MULTILINE)
        assert all(f"`{name}`" in row for name in kind.__struct_fields__), row


def codes(text: str) -> dict[int, str]:
    """Return the exit statuses that a text explains, with their meaning."""
    sentence = re.search(r"Exit status:(.*?interrupted)", text, re.DOTALL)
    assert sentence is not None
    parts = re.split(r"[·,] +(?=\d)", " ".join(sentence[1].split()))
    return {int(number): meaning.strip() for number, meaning in (part.split(" ", 1) for part in parts)}


def test_exit_codes_are_told_as_they_are():
    """README and `deploy --help` say the same, and they cover every error of the controller."""
    told = codes(README.read_text())
    assert told == codes(EXIT_CODES)
    raised = {
        kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DeployError)
    }
    assert set(told) == raised | {0, 130}


def test_every_event_is_explained():
    """docs/run-directory.md names each event that a log may hold."""
    text = (REPOSITORY / "docs" / "run-directory.md").read_text()
    tags = {kind.__struct_config__.tag for kind in events.AnyEvent.__args__}
    assert {tag for tag in tags if f"`{tag}`" not in text} == set()


DATASET = (REPOSITORY / "docs" / "dataset.md").read_text()
TYPES = {"Int64": "integer", "Float64": "number", "String": "text", "Boolean": "yes/no"}


@pytest.mark.parametrize("table", [SPANS, *TABLES], ids=lambda table: table.name)
def test_every_column_of_the_data_set_is_explained(table: Table):
    """Each table has a section that says what a row is, with its columns in order: type, unit and meaning."""
    (section,) = re.findall(rf"^### {table.name}\n\n(.*?)(?=\n### |\Z)", DATASET, re.DOTALL | re.MULTILINE)
    assert section.startswith(f"A row is {table.about}.\n")
    assert re.findall(r"^\| `(.*?)` \| (.*?) \| (.*?) \| (.*) \|$", section, re.MULTILINE) == [
        (column.name, TYPES[column.type.__name__], column.unit, column.about) for column in table.columns
    ]


def test_the_data_set_has_no_other_tables():
    """Nor steps, nor another limit of the trace than the code's."""
    assert re.findall(r"^### (.*)", DATASET, re.MULTILINE) == [table.name for table in (SPANS, *TABLES)]
    assert re.findall(r"`([\w-]+)`", DATASET[DATASET.index("or a step of a message") :])[: len(STEPS)] == list(STEPS)
    assert f"{LIMIT:,} slices" in DATASET
