"""Which files of a Flower app go to the hosts: those that Flower itself would put into an app's bundle (flwr 1.41).

For a directory: Python, TOML, Markdown, YAML and JSON, narrowed by `fab-include` and `fab-exclude`, without what
.gitignore names, tests, environments and build products. For a package: all of its files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

from deploy.errors import InputError
from deploy.manifest import MANIFEST_FILE
from deploy.pyproject import APP, PYPROJECT, Project, read_project

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

MOST_BYTES = 32 * 2**20
"""More than any app of code alone has: what is larger holds data, which belongs into the hosts' own directories."""
INCLUDED = ("**/*.py", "**/*.toml", "**/*.md", "**/*.yaml", "**/*.yml", "**/*.json", "**/*.jsonl", "/LICENSE")
EXCLUDED = (
    *(".flwr/**", "**/__pycache__/**", "**/*_test.py", "**/test_*.py"),
    *("build/**", "eggs/**", ".eggs/**", "lib/**", "lib64/**", "parts/**", "*.egg"),
    *(".venv/**", "env/**", "venv/**", "ENV/**", "env.bak/**", "venv.bak/**"),
)
"""As flwr.common.constant has them (FAB_INCLUDE_PATTERNS, FAB_EXCLUDE_PATTERNS); a test compares."""
_NEVER_ENTERED = (".git", "__pycache__", ".venv", ".flwr", ".mypy_cache", ".ruff_cache", "node_modules")
_SHOWN = 3


def project_files(directory: Path) -> dict[str, Path]:
    """Return the files of an app by their names relative to its directory, sorted; raises InputError."""
    project = read_project(directory / PYPROJECT)
    there = {path.relative_to(directory).as_posix(): path for path in _walk(directory)}
    ignored = _spec(_gitignore(directory))
    names = [name for name in there if not ignored.match_file(name)]
    names = _narrowed(project, names)
    included, excluded = _spec(INCLUDED), _spec(EXCLUDED)
    chosen = {name for name in names if included.match_file(name) and not excluded.match_file(name)} | {PYPROJECT}
    return _bounded(directory, {name: there[name] for name in sorted(chosen)})


def package_files(package: str, root: Path) -> dict[str, Path]:
    """Return the files of a package, by their names relative to the directory that holds it; raises InputError."""
    found = {f"{package}/{path.relative_to(root).as_posix()}": path for path in _walk(root)}
    return _bounded(root, dict(sorted(found.items())))


def _narrowed(project: Project, names: list[str]) -> list[str]:
    """Return the names that fab-include and fab-exclude leave; a pattern that matches nothing is an error, as there."""
    for key, patterns in (("fab-include", project.include), ("fab-exclude", project.exclude)):
        for pattern in patterns or ():
            if not any(_spec([pattern]).match_file(name) for name in names):
                raise project.error(f"{APP}.{key}", f"{pattern!r} matches no file: correct it, or leave it out")
    if project.include is not None:
        spec = _spec(project.include)
        names = [name for name in names if spec.match_file(name)]
    if project.exclude is not None:
        spec = _spec(project.exclude)
        names = [name for name in names if not spec.match_file(name)]
    return names


def _walk(root: Path) -> Iterator[Path]:
    """Yield all files below a directory that are no links, without entering what can hold no part of an app.

    Neither environments, whatever their name, nor run directories of ours: `deploy up` may well be typed in here.
    """
    for place, folders, files in os.walk(root, followlinks=False, onerror=_fail):
        here = Path(place)
        folders[:] = sorted(name for name in folders if name not in _NEVER_ENTERED and not _is_foreign(here / name))
        yield from (path for name in files if not (path := here / name).is_symlink() and path.is_file())


def _fail(error: OSError) -> None:
    raise InputError(error.filename, f"cannot be read: {error.strerror}") from error


def _is_foreign(folder: Path) -> bool:
    environment = (folder / "pyvenv.cfg").exists()
    return environment or ((folder / MANIFEST_FILE).exists() and (folder / "raw").is_dir())


def _gitignore(directory: Path) -> list[str]:
    """Return the patterns of the directory's own .gitignore, the one that Flower reads."""
    try:
        return (directory / ".gitignore").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _spec(patterns: Iterable[str]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(patterns)


def _bounded(root: Path, files: dict[str, Path]) -> dict[str, Path]:
    """Return the files if they are small enough together; the error names the largest."""
    sizes = {name: _size(path) for name, path in files.items()}
    total = sum(sizes.values())
    if total > MOST_BYTES:
        raise InputError(root, _too_large(total, sizes))
    return files


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from error


def _too_large(total: int, sizes: dict[str, int]) -> str:
    largest: Collection[str] = sorted(sizes, key=lambda name: -sizes[name])[:_SHOWN]
    shown = ", ".join(f"{name} ({sizes[name] / 2**20:.1f} MB)" for name in largest)
    return (
        f"the app holds {total / 2**20:.0f} MB in {len(sizes)} files, and at most {MOST_BYTES // 2**20} MB are pushed;"
        f" the largest: {shown}. Leave data out by .gitignore or fab-exclude, and keep it on the hosts"
    )
