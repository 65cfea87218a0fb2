"""The exceptions that dead-letter messages."""

from __future__ import annotations

import pytest

from azsession import (
    DeadLetter,
    DeadLetterSession,
    ValidationError,
)


@pytest.mark.parametrize("exception", [DeadLetter, DeadLetterSession])
def test_a_dead_letter_exception_checks_its_arguments(exception: type[DeadLetter]) -> None:
    assert (str(exception("why")), exception("why", "more").description) == ("why", "more")
    for arguments in ((7,), (None,), ("why", 7)):
        with pytest.raises(ValidationError):
            exception(*arguments)  # type: ignore[arg-type]
