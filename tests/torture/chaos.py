"""Injects faults at random times. Each group of faults has a thread, which injects one fault after another."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence

from .faults import Fault


class Chaos:
    """Injects faults until it is stopped.

    All faults of a group come equally often: a fault comes again only when all others of its group have come.

    Args:
        groups: Groups of faults by name, each with the longest pause between two faults in seconds. The faults of one group
            never overlap, those of different groups do.
        seed: Seed of the choices.
        on_fault: Called with the name of each fault.
    """

    def __init__(
        self, groups: Sequence[tuple[Mapping[str, Fault], float]], seed: int, on_fault: Callable[[str], object]
    ) -> None:
        self._on_fault = on_fault
        self._ended = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(faults, longest_pause, random.Random(f"{seed}/{number}")), daemon=True)
            for number, (faults, longest_pause) in enumerate(groups)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the running faults and stop. Raise the first error that occurred while injecting one."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self, faults: Mapping[str, Fault], longest_pause: float, chance: random.Random) -> None:
        try:
            names: list[str] = []
            while not self._ended.wait(chance.uniform(0.1, longest_pause)):
                names = names or chance.sample(list(faults), len(faults))
                name = names.pop()
                self._on_fault(name)
                faults[name](chance)
        except BaseException as error:
            self._errors.append(error)
