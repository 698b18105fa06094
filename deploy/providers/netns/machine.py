"""Whether this machine can have a lab of network namespaces, and what of it such a lab needs. Changes nothing."""

from __future__ import annotations

import os
import shutil
import sys

from deploy.errors import DeployError
from deploy.providers.netns.plan import Programs

_PACKAGES = {"ip": "iproute2", "sshd": "openssh-server", "ssh-keygen": "openssh-client"}
_SEARCHED = f"{os.defpath}:/usr/sbin:/sbin:/usr/local/sbin"


def check_machine() -> Programs:
    """Find the programs that a lab needs; raises DeployError if this machine cannot have one."""
    if not sys.platform.startswith("linux"):
        raise DeployError("provider: netns needs Linux; provider: virtual runs anywhere")
    if os.geteuid() != 0:
        raise DeployError("provider: netns needs root (sudo); provider: virtual does not")
    found = {name: shutil.which(name, path=_SEARCHED) for name in _PACKAGES}
    missing = {name: package for name, package in _PACKAGES.items() if found[name] is None}
    if missing:
        raise DeployError(
            f"provider: netns needs {', '.join(missing)}: apt-get install {' '.join(sorted(missing.values()))}"
        )
    return Programs(*(found[name] or "" for name in _PACKAGES))


def visible_directories() -> tuple[str, ...]:
    """Return the directories that this Python needs, which may lie in somebody's home."""
    prefixes = (sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))))  # noqa: PTH120
    return tuple(sorted({*prefixes, *(os.path.realpath(prefix) for prefix in prefixes)}))
