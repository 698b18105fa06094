"""The Flower app that a playbook names: found once, when the playbook is read, into a frozen `App`. Imports no app.

`app:` is an app of this toolkit (`flclient.apps.cifar10`), a directory with a `pyproject.toml` as Flower's own tools
make it, or a package that can be imported on this machine and holds `client_app.py` and `server_app.py`. What of it
goes to the hosts is the business of `deploy.appfiles`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from packaging.requirements import InvalidRequirement, Requirement

from deploy.appfiles import package_files, project_files
from deploy.convert import unknown
from deploy.pyproject import PYPROJECT, Project, read_project
from flcommon.job import AppRef, ConfigValue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.yamlfile import Node

EMBEDDED = "flclient.apps"
WITH_DATA = f"{EMBEDDED}.cifar10"
"""The app that understands a playbook's `data`."""
DIRECTORY = "app"
"""Where an app that is a directory lies in the pushed code."""
ROUNDS, SEED = "num-server-rounds", "seed"
"""The keys of a run_config that the toolkit sets where an app knows them, as Flower's templates spell them."""
_HALVES = ("client_app", "server_app")


class App(msgspec.Struct, frozen=True, kw_only=True):
    """A Flower app: where its halves are, what it is made of, what it needs, and its own run_config.

    `name` is as the playbook has it. `directory` holds the app unless it is a package; `package` is the top-level
    package to push unless it is one of ours. `defaults` is the app's own run_config with dotted keys, None where nobody
    can know it without importing the app. `dependencies` are requirement specifiers beyond those of the toolkit.
    """

    name: str
    client: str
    server: str
    directory: Path | None = None
    package: str = ""
    defaults: dict[str, ConfigValue] | None = None
    dependencies: tuple[str, ...] = ()

    @property
    def ref(self) -> AppRef:
        """Where the halves are, for the jobs."""
        return AppRef(client=self.client, server=self.server, directory=DIRECTORY if self.directory else None)

    @property
    def config(self) -> str:
        """Where its own run_config stands, for messages."""
        return f"{self.directory / PYPROJECT}" if self.directory else self.name

    @property
    def embedded(self) -> bool:
        """Whether it is one of this toolkit's own."""
        return self.directory is None and not self.package

    @property
    def takes_rounds(self) -> bool:
        """Whether the toolkit can say how many rounds there are: a directory's config says whether it has the key."""
        return self.directory is None or ROUNDS in (self.defaults or {})

    @property
    def takes_seed(self) -> bool:
        """Whether the toolkit sets the seed: where the app is known to have one that is a whole number."""
        return self.embedded or type((self.defaults or {}).get(SEED)) is int

    def rounds(self, asked: int | None) -> int:
        """Return how many rounds a trial has: what the playbook asks for, else the app's own default; 0: unknown."""
        if asked is not None:
            return asked
        own = (self.defaults or {}).get(ROUNDS)
        return own if type(own) is int and own > 0 else 0

    def run_config(self, given: Mapping[str, ConfigValue], rounds: int | None, seed: int) -> dict[str, ConfigValue]:
        """Return a trial's run_config: the app's own, then what is `given`, then what the toolkit sets."""
        config = {**(self.defaults or {}), **given}
        if rounds is not None:
            config[ROUNDS] = rounds
        if self.takes_seed:
            config[SEED] = seed
        return config

    def requirements(self) -> tuple[Requirement, ...]:
        """Return its dependencies, parsed."""
        return tuple(Requirement(line) for line in self.dependencies)

    def files(self) -> dict[str, Path]:
        """Return its files by their names in the pushed code; none for an embedded app. Raises InputError."""
        if self.directory is not None:
            found = project_files(self.directory)
            return {f"{DIRECTORY}/{name}": path for name, path in found.items()}
        root = _package_root(self.package) if self.package else None
        return package_files(self.package, root) if root else {}


def resolve(node: Node) -> App:
    """Return the app that a playbook's entry `app` names; raises InputError that names file, line and key."""
    name = str(node.value)
    if name in known_apps():
        return embedded(name)
    place = _place(node, name)
    if "/" in name or name.startswith((".", "~")) or _is_file(place / PYPROJECT):
        return _in_directory(node, name, place)
    found = _importable(name)
    if found is None:
        known = unknown(name, known_apps(), "apps")
        raise node.error(f"unknown app {name!r}{known}; or give a directory with a {PYPROJECT}, or a package")
    return found


def embedded(name: str) -> App:
    """Return one of the toolkit's own apps."""
    return App(name=name, client=f"{name}.client_app:app", server=f"{name}.server_app:app")


@functools.cache
def known_apps() -> tuple[str, ...]:
    """Return the embedded apps: packages below flclient.apps that hold both halves of a Flower app.

    They are found as files, not imported, for they import torch.
    """
    spec = importlib.util.find_spec(EMBEDDED)
    folders = [Path(place) for place in (spec.submodule_search_locations or [] if spec else [])]
    return tuple(
        f"{EMBEDDED}.{package.name}"
        for folder in folders
        for package in sorted(folder.iterdir())
        if _holds_halves(package)
    )


def _place(node: Node, name: str) -> Path:
    try:
        return node.file.parent / Path(name).expanduser()
    except RuntimeError as error:  # the home of a user who does not exist
        raise node.error(f"no such directory: {name}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a directory that is not ours to read
        return False


def _in_directory(node: Node, name: str, place: Path) -> App:
    if not _is_file(place / PYPROJECT):
        raise node.error(f"no Flower app in {place}: there is no {PYPROJECT}")
    directory = place.resolve()
    project = read_project(directory / PYPROJECT)
    files = project_files(directory)
    for half in ("clientapp", "serverapp"):
        _check_module(project, half, files)
    return App(
        name=name,
        client=project.components["clientapp"],
        server=project.components["serverapp"],
        directory=directory,
        defaults=project.config,
        dependencies=project.dependencies,
    )


def _check_module(project: Project, half: str, files: Mapping[str, Path]) -> None:
    """Raise InputError unless the module of a component is among the files that are pushed."""
    module = project.components[half].partition(":")[0].replace(".", "/")
    candidates = (f"{module}.py", f"{module}/__init__.py")
    if any(name in files for name in candidates):
        return
    key = f"tool.flwr.app.components.{half}"
    there = [name for name in candidates if _is_file(project.file.parent / name)]
    if there:
        raise project.error(key, f"{there[0]} is not part of the app: .gitignore, fab-exclude or Flower leaves it out")
    raise project.error(key, f"there is no {candidates[0]} beside {PYPROJECT}")


def _importable(name: str) -> App | None:
    """Return the app that is a package of this machine, or None; only its top-level package is looked up."""
    top, *rest = name.split(".")
    root = _package_root(top) if all(part.isidentifier() for part in (top, *rest)) else None
    if root is None or not _holds_halves(root.joinpath(*rest)):
        return None
    return msgspec.structs.replace(embedded(name), package=top, dependencies=_requirements_of(top))


def _holds_halves(package: Path) -> bool:
    return all(_is_file(package / f"{half}.py") for half in _HALVES)


def _package_root(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # `__main__` has none
        return None
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _requirements_of(package: str) -> tuple[str, ...]:
    """Return what the distribution that brings a package requires, without its extras; nothing if none brings it."""
    brought = importlib.metadata.packages_distributions().get(package, ())
    lines = [line for one in brought for line in importlib.metadata.requires(one) or ()]
    return tuple(line for line in lines if "extra ==" not in line and _is_requirement(line))


def _is_requirement(line: str) -> bool:
    try:
        Requirement(line)
    except InvalidRequirement:
        return False
    return True
