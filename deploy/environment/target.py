"""A kind of host, as far as an environment depends on it, and what uv and pip call it."""

from __future__ import annotations

import msgspec

GLIBC_MINOR = 28
"""Wheels may ask for glibc 2.28 (Debian 10, Ubuntu 18.10), which PyTorch's do, and no later one."""
MACOS = "14.0"
"""Wheels may ask for this macOS, which PyTorch's do, and no later one."""
_MACHINES = {
    ("Linux", "x86_64"): "x86_64-manylinux_2_28",
    ("Linux", "aarch64"): "aarch64-manylinux_2_28",
    ("Darwin", "x86_64"): "x86_64-apple-darwin",
    ("Darwin", "arm64"): "aarch64-apple-darwin",
}
_LEGACY = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1", "linux"), "aarch64": ("manylinux2014", "linux")}
_OLDEST_GLIBC_MINOR = {"x86_64": 5, "aarch64": 17}


class Target(msgspec.Struct, frozen=True):
    """A kind of host; `python` is a version such as 3.11."""

    system: str
    machine: str
    python: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.system} {self.machine}, Python {self.python}"

    @property
    def supported(self) -> bool:
        """Whether uv and the wheels that are needed exist for it."""
        return (self.system, self.machine) in _MACHINES

    @property
    def uv_platform(self) -> str:
        """What uv calls it (--python-platform)."""
        return _MACHINES[self.system, self.machine]

    @property
    def pip_platforms(self) -> tuple[str, ...]:
        """The platform tags of wheels that run on it: pip (23 to 25) takes no tag to include an older one's."""
        if self.system == "Darwin":  # where it does
            return (f"macosx_{MACOS.replace('.', '_')}_{self.machine}",)
        minors = range(GLIBC_MINOR, _OLDEST_GLIBC_MINOR[self.machine] - 1, -1)
        names = (*(f"manylinux_2_{minor}" for minor in minors), *_LEGACY[self.machine])
        return tuple(f"{name}_{self.machine}" for name in names)

    @property
    def file_name(self) -> str:
        """It as part of a file's name."""
        return f"{self.system}-{self.machine}-{self.python}".lower()
