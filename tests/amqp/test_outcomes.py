"""The outcome that dead-letters a message; `test_frames` compares the others."""

from __future__ import annotations

import pytest
from azure.servicebus._pyamqp.error import AMQPError
from azure.servicebus._pyamqp.outcomes import Rejected
from azure.servicebus._pyamqp.performatives import DispositionFrame

from azsession import amqp
from azsession.amqp import Condition

from .amqp_bytes import by_the_sdk, from_the_sdk, read


@pytest.mark.parametrize(("reason", "description"), [("broken", "é" * 3000), ("broken", None), (None, None)])
def test_a_dead_letter_outcome_means_the_same_as_the_sdks(reason: str | None, description: str | None) -> None:
    frame = amqp.disposition_frame(0, first=1, last=1, outcome=amqp.dead_lettered(reason, description))
    info = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
    assert read(frame).error == Condition("com.microsoft:dead-letter", description or "", info)
    error = AMQPError(condition=b"com.microsoft:dead-letter", description=description, info=info)
    expected = from_the_sdk(DispositionFrame(True, 1, 1, False, Rejected(error=error), None))
    assert by_the_sdk(frame) == by_the_sdk(expected)
