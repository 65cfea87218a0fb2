"""Runs a torture run and reports the result."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import attrs

from .azure import AzureScene, wire_faults
from .chaos import Chaos
from .checker import check
from .faults import Fault, clock_faults, copy_faults, disk_faults, gateway_faults, name_faults, worker_faults
from .history import OK, History, read
from .proxy import FAULTS
from .rules import Rules, Violation
from .scene import Scene

#: The share of exchanges that the proxy injects a fault into.
RATE = 0.08
#: Seconds that the consumers get to empty the queue after the last fault.
DRAIN = 120.0
#: In this many seconds, each kind of fault comes at least `OFTEN` times: with the embedded broker, and with Azure.
EMBEDDED_SECONDS, AZURE_SECONDS = 1800.0, 1200.0
OFTEN = 100


@attrs.frozen
class Plan:
    """What a run does.

    Attributes:
        seed: The seed of the run.
        seconds: How long faults are injected.
        kinds: The faults.
        azure: The server in the place of Azure, in front of which the gateway runs; `None` with the embedded broker.
    """

    seed: int
    seconds: float
    kinds: Sequence[str]
    azure: str | None = None

    @property
    def wanted(self) -> int:
        """How often each fault must come. A run shorter than the full length needs its share."""
        return math.ceil(OFTEN * min(1.0, self.seconds / (AZURE_SECONDS if self.azure else EMBEDDED_SECONDS)))


@attrs.frozen
class Report:
    """The result of a run.

    Attributes:
        plan: The run.
        faults: For each fault, how often it was injected and the median number of messages under way at that time.
        counts: The numbers of messages and operations.
        violations: The violations of the guarantees.
        drained: The queue was empty at the end.
    """

    plan: Plan
    faults: dict[str, tuple[int, float]]
    counts: dict[str, int]
    violations: list[Violation]
    drained: bool

    @property
    def is_good(self) -> bool:
        return self.drained and not self.violations

    def text(self) -> str:
        """Return the report as a table, followed by the violations."""
        lines = ["| fault | injected | messages under way (median) |", "| --- | --- | --- |"]
        lines += [f"| {kind} | {times} | {under_way:.0f} |" for kind, (times, under_way) in sorted(self.faults.items())]
        lines.append("")
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        lines.append(f"seed {self.plan.seed}, {self.plan.seconds:.0f} s: {counts}")
        if rare := [f"{kind} {times}" for kind, (times, _) in sorted(self.faults.items()) if times < self.plan.wanted]:
            lines.append(f"TOO FEW FAULTS: each must come {self.plan.wanted} times, but: {', '.join(rare)}")
        if not self.drained:
            lines.append("NOT DRAINED: the consumers did not empty the queue")
        found = Counter(violation.kind for violation in self.violations)
        lines.append("violations: " + (", ".join(f"{number} {kind}" for kind, number in found.items()) or "none"))
        return "\n".join([*lines, *map(str, self.violations[:50])])


def torture(folder: Path, seed: int, seconds: float, *, azure: str | None = None) -> Report:
    """Run a scene with faults for some seconds, let it finish without faults, and check its history."""
    with AzureScene(folder, seed, azure) if azure else Scene(folder, seed) as scene:
        time.sleep(min(3.0, seconds / 4))
        groups = fault_groups(scene)
        chaos = Chaos(groups, seed, scene.record_fault)
        scene.proxy.rate = RATE
        chaos.start()
        time.sleep(seconds)
        chaos.stop()
        scene.proxy.rate = 0.0
        drained = scene.drain(DRAIN)
        scene.record_leftover()
    history = read(sorted(folder.glob("*.history")))
    kinds = [*FAULTS, *(kind for faults, _ in groups for kind in faults)]
    return report_on(history, Plan(seed, seconds, kinds, azure), scene.rules, drained=drained)


def fault_groups(scene: Scene) -> list[tuple[dict[str, Fault], float]]:
    """Return the faults of a run in groups, each with the longest pause between two faults in seconds.

    The pauses are so long that messages flow between the faults, and so short that each fault comes often enough on a slow
    machine (see `Plan.wanted`).
    """
    groups = [(worker_faults(scene), 2.0), (name_faults(scene), 8.0)]
    if isinstance(scene, AzureScene):
        groups += [(gateway_faults(scene), 2.5), (wire_faults(scene), 4.5)]
    else:
        groups += [(gateway_faults(scene), 4.5), (copy_faults(scene), 8.0), (disk_faults(scene), 6.0)]
    if scene.has_clocks:
        groups.append((clock_faults(scene), 8.0))
    return [(faults, longest_pause) for faults, longest_pause in groups if faults]


def report_on(history: History, plan: Plan, rules: Rules, *, drained: bool) -> Report:
    """Check a history and return the report."""
    counts = Counter(f"{one.name} {one.outcome}" for one in history.operations)
    under_way: dict[str, list[int]] = {kind: [] for kind in plan.kinds}
    begun, done = _lifetimes(history)
    for event in history.events:
        if event.name == "fault":
            under_way[event.fields["kind"]].append(bisect_left(begun, event.at) - bisect_left(done, event.at))
    return Report(
        plan,
        {kind: (len(each), median(each or [0])) for kind, each in under_way.items()},
        {"messages": len(begun), "done": len(done), **dict(sorted(counts.items()))},
        check(history, rules),
        drained,
    )


def _lifetimes(history: History) -> tuple[list[float], list[float]]:
    """Return the sorted times at which messages were sent, and at which they were completed or dead-lettered.

    A message whose send has an unknown outcome counts from its first delivery.
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
