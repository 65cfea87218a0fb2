"""The options of a processor are checked."""

from __future__ import annotations

from typing import Any

import pytest

from azsession import (
    ServiceBusProvider,
    SessionProcessor,
    ValidationError,
)
from azsession.processor.options import ProcessorOptions

from .helpers import QUEUE, Seen


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrent_sessions": 0},
        {"session_ids": []},
        {"session_ids": "a"},
        {"session_ids": ["s" * 129]},
        {"max_messages_per_session": 0},
        {"session_idle_timeout": -1},
        {"prefetch": 0},
        {"on_error": "print"},
        {"grace_period": float("nan")},
        {"max_renewal": "1"},
        {"settle_in_background": -1},
        {"settle_in_background": 1001},
        {"settle_in_background": True},
    ],
)
def test_the_error_names_the_invalid_option(provider: ServiceBusProvider, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="session id" if wrong.get("session_ids") == ["s" * 129] else next(iter(wrong))):
        SessionProcessor(provider, QUEUE, Seen(), **wrong)


@pytest.mark.parametrize("off", [0, None])
def test_settling_in_the_background_is_off_by_default(off: int | None) -> None:
    assert ProcessorOptions(queue_name=QUEUE, handler=Seen()).settle_in_background == 0
    assert ProcessorOptions(queue_name=QUEUE, handler=Seen(), settle_in_background=off).settle_in_background == 0
