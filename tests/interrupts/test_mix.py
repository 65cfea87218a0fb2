"""A short run of the random mix of interrupts, forks and closes. ``python -m tests.interrupts.mix`` runs longer."""

from __future__ import annotations

import pytest

from ..api.conftest import Arrangement
from ..support.processes import FORKS_IGNORED
from .mix import run


# Python ignores an exception that a signal handler raises in a finalizer, and pytest reports it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", FORKS_IGNORED)
def test_no_message_is_lost_doubled_or_overtaken_in_a_mix_of_interrupts_forks_and_closes(arrangement: Arrangement) -> None:
    detection = {"duplicate_detection": 600} if arrangement.is_azure else {"requires_duplicate_detection": True}
    queue = arrangement.queue(**detection)
    is_embedded = arrangement.name == "embedded-in-process"
    child = {"child_uses_provider": not is_embedded, "child_settles": arrangement.name == "embedded-over-HTTP"}
    mix = run(arrangement.provider(), queue, 3.0, seed=7, interrupts=4, **child)
    assert mix.interrupts > 3
    assert mix.sent > 10
