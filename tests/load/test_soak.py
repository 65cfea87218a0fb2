"""The soak, the burst and their helpers, in short runs."""

from __future__ import annotations

import os
import subprocess
import sys

from ..support.paths import ROOT
from .figures import MB, Line, lines_of
from .ledger import Ledger


def run_small(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", f"tests.load.{module}", *arguments]
    environ = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=110, check=False)


def test_a_short_soak_loses_no_message() -> None:
    ended = run_small("soak", "--minutes", "0.1", "--sessions", "60", "--waits", "30", "--period", "1", "--peak", "1000")
    # So short a run cannot tell whether the figures are flat.
    assert "lost: 0\nwrong: 0\n" in ended.stdout, ended.stdout + ended.stderr
    for kind in ("abandon", "close", "defer", "dead-letter", "resubmit", "scheduled", "state", "renew"):
        assert f"handled: {kind}: " in ended.stdout
    assert "long polls aborted: " in ended.stdout


def samples(name: str, *values: float) -> list[dict[str, float]]:
    return [{name: value} for value in values]


def test_a_figure_that_grows_is_reported() -> None:
    (line,) = lines_of(samples("gateway RSS", *(number * MB for number in range(100, 190))))
    assert not line.flat
    assert "GROWS" in str(line)
    (line,) = lines_of(samples("gateway threads", *[30] * 60, *[60] * 30))
    assert not line.flat


def test_a_figure_that_only_grows_at_the_start_is_flat() -> None:
    (line,) = lines_of(samples("gateway RSS", *[10 * MB] * 10, *[100 * MB] * 20, 300 * MB, *[100 * MB] * 20))
    assert line == Line("gateway RSS", 100 * MB, 100 * MB, 300 * MB)
    assert line.flat


def test_the_ledger_reports_missing_repeated_and_misordered_messages() -> None:
    ledger = Ledger()
    one, two, three = (ledger.new("order") for _ in range(3))
    ledger.in_order("s", 1, one)
    ledger.done(one)
    assert ledger.wrong == []
    ledger.done(one)
    assert "twice" in ledger.wrong[0]
    ledger.in_order("s", 5, two)
    ledger.in_order("s", 4, three)
    assert "after a later one" in ledger.wrong[1]
    ledger.done(three)
    assert ledger.under_way == {two: "order"}
