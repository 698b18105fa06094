"""The chart library that a page carries along: Vega-Embed with Vega and Vega-Lite inside, as one JavaScript text.

vl-convert takes two seconds to bundle it and holds Python's global interpreter lock meanwhile (1.9): a process of its
own does it while the figures are drawn.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deploy.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle(sys.argv[1]).encode())"
SNIPPET = "window.vegaEmbed = vegaEmbed;"


@contextmanager
def bundling() -> Iterator[Callable[[], str]]:
    """Bundle the library in the background; gives a function that waits for it and returns the script's text.

    The text is fit for an inline script element. The function raises DeployError when vl-convert fails.
    """
    argv = [sys.executable, "-P", "-c", PROGRAM, SNIPPET]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield lambda: _text(process)


def _text(process: subprocess.Popen[bytes]) -> str:
    out, errors = process.communicate()
    if process.returncode:
        raise DeployError(f"vl-convert cannot bundle the chart library:\n{errors.decode(errors='replace').strip()}")
    return out.decode().replace("</script", "<\\/script").replace("<!--", "<\\!--")
