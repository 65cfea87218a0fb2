"""Tests of the order in which faults are injected."""

from __future__ import annotations

import random
import threading
from collections import Counter

from .chaos import Chaos
from .faults import Fault


def test_each_fault_of_a_group_comes_again_only_after_all_others() -> None:
    names: list[str] = []
    enough = threading.Event()

    def fault(chance: random.Random) -> None:
        if len(names) >= 12:
            enough.set()

    faults: dict[str, Fault] = dict.fromkeys("abc", fault)
    chaos = Chaos([(faults, 0.1)], 1, names.append)
    chaos.start()
    assert enough.wait(30)
    chaos.stop()
    rounds = [names[at : at + 3] for at in range(0, 12, 3)]
    assert [sorted(each) for each in rounds] == [["a", "b", "c"]] * 4
    assert len({tuple(each) for each in rounds}) > 1
    assert max(Counter(names).values()) - min(Counter(names).values()) <= 1
