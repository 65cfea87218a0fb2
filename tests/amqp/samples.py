"""Well-formed frames and a message, for tests that cut or change bytes."""

from __future__ import annotations

from azsession import amqp

FRAMES = [
    amqp.open_frame(container_id="c", hostname="h", max_frame_size=65536, channel_max=7, idle_timeout_ms=None),
    amqp.attach_receiver(0, name="n", handle=1, address="q", session_id="s", properties={"a": 1}),
    amqp.transfer_frames(0, handle=1, delivery_id=1, delivery_tag=b"12", payload=b"", max_frame_size=512)[0],
    amqp.disposition_frame(0, first=1, last=1, outcome=amqp.dead_lettered("r", "d")),
    amqp.detach_frame(0, handle=1),
]
MESSAGE = amqp.encode_message(
    amqp.AmqpMessage(
        ttl_ms=1,
        message_id="m",
        annotations={"x-opt-sequence-number": amqp.Long(1)},
        application_properties={"a": "b", "n": amqp.Long(5)},
        data=b"body",
    )
)
