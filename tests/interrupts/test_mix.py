"""A short run of the random mix of interrupts and closes. ``python -m tests.interrupts.mix`` runs longer."""

from __future__ import annotations

import pytest

from azsession import ServiceBusProvider

from .mix import run


# Python ignores an exception that a signal handler raises in a finalizer, and pytest reports it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_message_is_lost_or_overtaken_in_a_mix_of_interrupts_and_closes(provider: ServiceBusProvider, queue: str) -> None:
    mix = run(provider, queue, 3.0, seed=7)
    assert mix.interrupts > 3
    assert mix.sent > 10
