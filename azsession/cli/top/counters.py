"""The gateway's counters of messages, from its metrics. `snapshot` turns them into rates."""

from __future__ import annotations

import re

import attrs

from ...client.call import Call
from ...client.provider import ServiceBusProvider, core_of
from ...errors import QueueError
from ...protocol.routes import METRICS_PATH

#: The counters in Prometheus' text format.
_LINE = re.compile(
    r"^azsession_messages_(?:(sent|delivered)_total|settled_total\{disposition=\"(complete)\"\}) ([0-9.e+]{1,30})$",
    re.MULTILINE,
)


@attrs.frozen
class Counters:
    """How many messages of all queues clients sent, received and completed since the gateway started, or in a second."""

    sent: float
    delivered: float
    completed: float


def read_counters(provider: ServiceBusProvider) -> Counters | None:
    """Return the counters of a gateway. `None`: it has none, or the key lacks the right Metrics. Blocks."""
    call: Call[bytes] = Call(method="GET", path=METRICS_PATH, entity="", read=lambda response: response.body)
    try:
        text = core_of(provider).send(call, "read metrics").decode(errors="replace")
    except QueueError:
        return None
    found = {sent or completed: float(value) for sent, completed, value in _LINE.findall(text)}
    try:
        return Counters(found["sent"], found["delivered"], found["complete"])
    except KeyError:
        return None


def rates(before: Counters | None, now: Counters | None, seconds: float) -> Counters | None:
    """Return the counts in a second. `None` if they are unknown, for example because the gateway was started again."""
    if before is None or now is None or seconds <= 0 or now.sent < before.sent or now.delivered < before.delivered:
        return None
    differences = (new - old for new, old in zip(attrs.astuple(now), attrs.astuple(before), strict=True))
    return Counters(*(max(0.0, difference) / seconds for difference in differences))
