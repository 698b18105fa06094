"""The page in a real browser: headless Chromium, from file://, with a log of everything that it asks the network."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from deploy.analysis.report import write_report
from flcommon.delay import Constant

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--enable-logging=stderr",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=10000",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom",
)  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Visit(NamedTuple):
    """What a browser made of a page: its tree when all was drawn, its console, the URLs that the page asked for."""

    dom: str
    console: list[str]
    asked: list[str]


def visit(page: Path, home: Path, *flags: str) -> Visit:
    netlog = home / "net.json"
    argv = [str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={home}", f"--log-net-log={netlog}", page.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, console, requests_of_page(netlog))


def requests_of_page(netlog: Path) -> list[str]:
    """Return the URLs asked for by the page; those of the browser itself have no origin."""
    params = [event.get("params", {}) for event in json.loads(netlog.read_text())["events"]]
    asked = [each for each in params if "url" in each and "initiator" in each]
    return [each["url"] for each in asked if each["initiator"] != "not an origin"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> Path:
    rng = random.Random(1)  # noqa: S311 - noise for a picture
    sizes = [Constant(0.3), Constant(0.4), Constant(0.5)]
    trials = kit.sweep(sizes, 1, 3, lambda: rng.gauss(0, 1))
    return write_report(kit.FakeRun(tmp_path_factory.mktemp("sweep"), trials).write()).page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_offline_without_complaint(index: Path, tmp_path: Path, scheme: str) -> None:
    """18 trials: 18 points, 3 solid and 3 dashed lines, 54 parts of bars; a silent console; not one request."""
    dark = scheme == "dark"
    seen = visit(index, tmp_path, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    drawn = re.sub(r"<noscript>.*?</noscript>", "", seen.dom, flags=re.DOTALL)
    assert (seen.console, seen.asked) == ([], [])
    assert drawn.count('aria-roledescription="circle"') == 18
    assert drawn.count('aria-roledescription="line mark"') == 6
    assert drawn.count('aria-roledescription="bar"') == 54
    assert 'aria-label="Training time against delay probability. From' in drawn
    assert (('fill="#e8eaed"' in drawn), ('fill="#1a1d21"' in drawn)) == (dark, not dark)


def test_the_check_itself_notices_requests_and_errors(tmp_path: Path) -> None:
    """A page that misbehaves is caught, so silence above means something."""
    bad = tmp_path / "bad.html"
    bad.write_text("<!DOCTYPE html><img src='http://x.invalid/a.png'><script>nonsense()</script>")
    seen = visit(bad, tmp_path)
    assert "http://x.invalid/a.png" in seen.asked
    assert any("nonsense is not defined" in line for line in seen.console)
