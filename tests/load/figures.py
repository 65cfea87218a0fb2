"""Samples the memory, threads and files of a process over time, and checks that they stay flat."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import attrs
import psutil

MB = 1024 * 1024


@attrs.frozen
class Bound:
    """How much a figure may grow from the second third of a run to the last and still be flat: a share plus a constant."""

    share: float
    slack: float

    def holds(self, before: float, after: float) -> bool:
        return after <= before * (1 + self.share) + self.slack


#: By the last word of the figure's name.
BOUNDS = {
    "RSS": Bound(0.05, 4 * MB),
    "PSS": Bound(0.05, 4 * MB),
    "threads": Bound(0.05, 8),
    "files": Bound(0.05, 8),
    "size": Bound(0.10, 4 * MB),
    "WAL": Bound(0.10, 4 * MB),
}


def figures_of(name: str, process: psutil.Process) -> dict[str, float]:
    """Return the memory, threads and open files of a process, with the process's name in each key."""
    memory = process.memory_full_info()
    found = {f"{name} RSS": memory.rss, f"{name} threads": process.num_threads()}
    if hasattr(memory, "pss"):
        found[f"{name} PSS"] = memory.pss
    if hasattr(process, "num_fds"):
        found[f"{name} files"] = process.num_fds()
    return {key: float(value) for key, value in found.items()}


def sizes_of(data: Path) -> dict[str, float]:
    """Return the sizes of the data file and of its log in bytes."""
    log = data.with_name(data.name + "-wal")
    return {"file size": float(os.path.getsize(data)), "file WAL": float(os.path.getsize(log) if log.exists() else 0)}


@attrs.frozen
class Line:
    """One figure over a run: the medians of the second and the last third, the peak, and whether the figure stayed flat."""

    name: str
    before: float
    after: float
    peak: float

    @property
    def flat(self) -> bool:
        return BOUNDS[self.name.rpartition(" ")[2]].holds(self.before, self.after)

    def __str__(self) -> str:
        def shown(value: float) -> str:
            return f"{value:.0f}" if self.name.endswith(("threads", "files")) else f"{value / MB:.1f} MB"

        change = 100 * (self.after / self.before - 1) if self.before else 0.0
        verdict = "flat" if self.flat else "GROWS"
        return (
            f"| {self.name} | {shown(self.before)} | {shown(self.after)} | {change:+.1f} % | {shown(self.peak)} | {verdict} |"
        )


HEADER = "| figure | second third (median) | last third (median) | change | peak | |\n| --- | --- | --- | --- | --- | --- |"


def lines_of(samples: Sequence[dict[str, float]]) -> list[Line]:
    """Return the figures of a run. The first third of the samples is the warm-up."""
    third = len(samples) // 3
    lines = []
    for name in samples[-1]:
        values = [sample[name] for sample in samples]
        before, after = statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])
        lines.append(Line(name, before, after, max(values)))
    return lines
