"""Tests of the report of a run."""

from __future__ import annotations

import pytest

from .history import Event, History
from .rules import Rules
from .run import Plan, report_on


@pytest.mark.parametrize(
    ("minutes", "azure", "wanted"),
    [(30, False, 100), (20, True, 100), (5, False, 17), (5, True, 25), (60, False, 100), (0.5, False, 2)],
)
def test_a_run_of_the_full_length_needs_each_fault_a_hundred_times_and_a_shorter_one_its_share(
    minutes: float, azure: bool, wanted: int
) -> None:
    assert Plan(1, minutes * 60, [], azure).wanted == wanted


def test_the_report_names_the_faults_that_came_too_rarely_and_those_that_never_came() -> None:
    times = {"gateway killed": 100, "disk full": 99}
    events = [Event("fault", "scene", float(at), {"kind": kind}) for kind, count in times.items() for at in range(count)]
    report = report_on(History([], events), Plan(1, 1800.0, [*times, "black hole"]), Rules(), drained=True)
    assert report.is_good
    lines = report.text().splitlines()
    assert "| gateway killed | 100 | 0 |" in lines
    assert "| black hole | 0 | 0 |" in lines
    assert "TOO FEW FAULTS: each must come 100 times, but: black hole 0, disk full 99" in lines
