"""A torture run from its begin to its verdict, and the report of it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

import attrs

from .azure import AzureScene, of_wire
from .chaos import Chaos
from .checker import Rules, Violation, check
from .faults import of_file, of_gateway, of_names, of_workers
from .history import OK, History, read
from .scene import Scene

#: The share of exchanges that the proxy does something to.
RATE = 0.08
#: Seconds in which the consumers finish after the last fault.
DRAIN = 120.0


@attrs.frozen
class Report:
    """What was done, and what came of it.

    Attributes:
        seed: Of the run.
        seconds: For how long faults were injected.
        faults: How often each was, and how many messages were under way then, in the median.
        counts: How many messages and operations there were.
        violations: The promises that were broken.
        drained: Everything was consumed in the end.
    """

    seed: int
    seconds: float
    faults: dict[str, tuple[int, float]]
    counts: dict[str, int]
    violations: list[Violation]
    drained: bool

    @property
    def is_good(self) -> bool:
        return self.drained and not self.violations

    def text(self) -> str:
        """Return the report as a table, and the violations one by one."""
        lines = ["| fault | injected | messages under way (median) |", "| --- | --- | --- |"]
        lines += [f"| {kind} | {times} | {under_way:.0f} |" for kind, (times, under_way) in sorted(self.faults.items())]
        lines.append("")
        lines.append(
            f"seed {self.seed}, {self.seconds:.0f} s: " + ", ".join(f"{n} {what}" for what, n in self.counts.items())
        )
        if not self.drained:
            lines.append("NOT DRAINED: messages were left that nobody consumed")
        found = Counter(violation.kind for violation in self.violations)
        lines.append("violations: " + (", ".join(f"{number} {kind}" for kind, number in found.items()) or "none"))
        return "\n".join([*lines, *map(str, self.violations[:50])])


def torture(folder: Path, seed: int, seconds: float, *, azure: bool = False) -> Report:
    """Run a scene under faults for some seconds, let it finish without, and judge its history."""
    with AzureScene(folder, seed) if azure else Scene(folder, seed) as scene:
        time.sleep(min(3.0, seconds / 4))
        of_data = of_wire(scene) if isinstance(scene, AzureScene) else of_file(scene)
        groups = [({**of_gateway(scene), **of_data}, 2.0), (of_workers(scene), 3.0), (of_names(scene), 8.0)]
        chaos = Chaos(groups, seed, scene.injected)
        scene.proxy.rate = RATE
        chaos.start()
        time.sleep(seconds)
        chaos.stop()
        scene.proxy.rate = 0.0
        drained = scene.drain(DRAIN)
        scene.take_stock()
    history = read(sorted(folder.glob("*.history")))
    return report_on(history, seed, seconds, drained, scene.rules)


def report_on(history: History, seed: int, seconds: float, drained: bool, rules: Rules) -> Report:
    """Judge a history."""
    counts = Counter(f"{one.name} {one.outcome}" for one in history.operations)
    under_way: dict[str, list[int]] = defaultdict(list)
    begun, done = _lives(history)
    for event in history.events:
        if event.what == "fault":
            under_way[event.fields["kind"]].append(bisect_left(begun, event.at) - bisect_left(done, event.at))
    return Report(
        seed,
        seconds,
        {kind: (len(each), median(each)) for kind, each in under_way.items()},
        {"messages": len(begun), "done": len(done), **dict(sorted(counts.items()))},
        check(history, rules),
        drained,
    )


def _lives(history: History) -> tuple[list[float], list[float]]:
    """Return when the messages that there were came, and when they were completed or dead-lettered, in order.

    One whose send has no known outcome came when it was first seen.
    """
    begun: dict[str, float] = {}
    done: dict[int, float] = {}
    for one in history.operations:
        if one.name == "send" and one.outcome == OK:
            begun.update(dict.fromkeys(one.about["ids"], one.end))
        for message, _, _ in one.result.get("messages", ()):
            begun.setdefault(message, one.begin)
        if one.name in ("complete", "dead_letter") and one.may_have_acted:
            for sequence in one.about["sequences"]:
                done.setdefault(sequence, one.begin)
    return sorted(begun.values()), sorted(done.values())
