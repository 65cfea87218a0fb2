"""Does faults at random instants: a thread for each group of them, one fault after the other in each."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence

from .faults import Fault


class Chaos:
    """Does faults until it is stopped.

    Args:
        groups: The faults by name, and the seconds between two of them at the most; those of one group never overlap.
        seed: Of what is done when.
        on_fault: Called with the name of each.
    """

    def __init__(
        self, groups: Sequence[tuple[Mapping[str, Fault], float]], seed: int, on_fault: Callable[[str], object]
    ) -> None:
        self._on_fault = on_fault
        self._ended = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(faults, quiet, random.Random(f"{seed}/{number}")), daemon=True)
            for number, (faults, quiet) in enumerate(groups)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End with the faults in hand; raises what went wrong in doing one."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self, faults: Mapping[str, Fault], quiet: float, chance: random.Random) -> None:
        try:
            while not self._ended.wait(chance.uniform(0.1, quiet)):
                name = chance.choice(list(faults))
                self._on_fault(name)
                faults[name](chance)
        except BaseException as error:
            self._errors.append(error)
