"""All parsers of the project as targets for fuzzers. `test_targets` and ``python -m tests.fuzz`` use this list.

A target takes any bytes. It may raise its allowed exceptions and no others, and must end soon.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import datetime, timezone

import attrs

from azsession import amqp
from azsession.amqp import AmqpMessage, MalformedFrameError
from azsession.errors import (
    AuthenticationFailedError,
    ConfigurationError,
    InvalidReceiptError,
    PermissionDeniedError,
    ValidationError,
)
from azsession.messages import ReceiptHandle
from azsession.protocol.routes import NoRouteError
from azsession.protocol.sas import generate_sas_token
from azsession.protocol.wire import MalformedError
from azsession.server.amqp.conditions import RefusedError

from . import amqp as from_azure
from . import client, endpoint, served, wire


@attrs.frozen
class Target:
    """A parser.

    Attributes:
        name: The name for ``python -m tests.fuzz``.
        run: Parses bytes, uses the result, and checks it with assertions.
        allowed: The exceptions for invalid bytes.
        seeds: Valid or almost valid bytes to start with.
    """

    name: str
    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def __call__(self, data: bytes) -> None:
        """Parse bytes. Raises every exception that is not allowed."""
        with contextlib.suppress(*self.allowed):
            self.run(data)


def _frames() -> tuple[bytes, ...]:
    frames = [
        amqp.open_frame(container_id="c", hostname="h", max_frame_size=65536, channel_max=7, idle_timeout_ms=1000),
        amqp.begin_frame(1, next_outgoing_id=1, incoming_window=2, outgoing_window=3, handle_max=4),
        amqp.attach_receiver(1, name="n", handle=1, address="q", session_id="s"),
        amqp.attach_sender(1, name="n", handle=1, address="q", properties={"a": amqp.Uint(1)}),
        *amqp.transfer_frames(
            1, handle=1, delivery_id=2, delivery_tag=b"t" * 16, message_format=0, payload=b"p", max_frame_size=512
        ),
        amqp.detach_frame(1, handle=1),
        amqp.end_frame(1),
        amqp.close_frame(),
        amqp.sasl_init_anonymous("h"),
    ]
    rejected = amqp.dead_lettered("why", "more")
    return (*(frame[8:] for frame in frames), rejected)


_SENT = amqp.encode_message(AmqpMessage(message_id="m", group_id="s", application_properties={"a": 1.5}, data=b"x"))


def _amqp_messages() -> tuple[bytes, ...]:
    full = AmqpMessage(
        durable=True,
        priority=4,
        ttl_ms=1000,
        annotations={"x-opt-sequence-number": amqp.Long(5), "x-opt-enqueued-time": amqp.Timestamp(1)},
        message_id="m",
        to="t",
        subject="s",
        reply_to="r",
        correlation_id=7,
        content_type="text/plain",
        absolute_expiry=2000,
        creation_time=1000,
        group_id="g",
        reply_to_group_id="h",
        application_properties={"a": "text", "b": 1.5, "c": True, "d": amqp.Long(1)},
        data=b"body",
    )
    return (
        amqp.encode_message(full),
        amqp.encode_message(AmqpMessage(value={"a": ["b", 1, None]})),
        amqp.encode_message(AmqpMessage(value=amqp.Array([amqp.Symbol("a")]))),
        b"\x00\x53\x74\xc1\x06\x02\xa1\x00\xa1\x01x",
        b"\x00\x53\x73\xc0\x06\x01\x73\x00\x00\xd8\x00",
        b"\x00\x53\x75\xa0\x01a" * 3,
        b"\x00\x53\x77\xe0\x02\x05\x40",
    )


def _responses() -> tuple[bytes, ...]:
    made = [
        AmqpMessage(
            correlation_id="1",
            application_properties={"statusCode": 200, "statusDescription": "OK"},
            value={"messages": [{"message": b"\x00\x53\x75\xa0\x01a", "lock-token": b"t"}]},
        ),
        AmqpMessage(correlation_id=2, application_properties={"status-code": 404, "error-condition": "amqp:not-found"}),
        AmqpMessage(application_properties={"statusCode": 410, "errorCondition": "com.microsoft:session-lock-lost"}),
    ]
    return tuple(amqp.encode_message(one) for one in made)


_QUEUE = json.dumps({
    "LockDuration": "PT30S", "MaxDeliveryCount": 3, "DefaultMessageTimeToLive": "P1DT2H3M4.5S",
    "DeadLetteringOnMessageExpiration": True, "RequiresDuplicateDetection": True,
    "DuplicateDetectionHistoryTimeWindow": "PT10M", "RequiresSession": True, "MessageCount": 1,
}).encode()  # fmt: skip
_ITEM = json.dumps({
    "Body": "aGk=", "BodyEncoding": "base64", "ContentType": "text/plain", "UserProperties": {"a": 1, "b": "x", "c": 1.5},
    "BrokerProperties": {
        "SessionId": "s", "MessageId": "m", "LockToken": "t", "SequenceNumber": 1, "DeliveryCount": 1, "TimeToLive": 5.5,
        "EnqueuedTimeUtc": "Mon, 02 Jan 2023 03:04:05 GMT", "ScheduledEnqueueTimeUtc": "2023-01-02T03:04:05.1Z",
        "Label": "l", "State": "Active",
    },
}).encode()  # fmt: skip
_PROPERTIES = b'BrokerProperties: {"SessionId":"s","LockToken":"t","Label":"l","TimeToLive":3}'
_SINGLE = _PROPERTIES + b'\nContent-Type: text/plain\na: "text"\nb: 1.5e3\nc: true\n%64ate: "x"\n\nbody'
_LOCK = b"Azsession-Lock-Expires-In: 59.5\nAzsession-Waited: 0.25\n"
_GUID = b"6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c"
_DEEP = b'{"MaxDeliveryCount":' + b"[" * 400 + b"]" * 400 + b"}"
_TOKEN = generate_sas_token(f"http://{served.HOST}/orders", served.KEY.name, served.KEY.key, 4_000_000_000).encode()
_MALFORMED = (MalformedError, ValidationError)


def _choice(name: str, status: int) -> bytes:
    """Return the byte that chooses the parser and the status of a response."""
    return bytes([(200, 201, 204, 202).index(status) * 64 + _shift(list(wire.READERS).index(name), status)])


def _shift(index: int, status: int) -> int:
    base = (200, 201, 204, 202).index(status) * 64
    return (index - base) % len(wire.READERS)


TARGETS = {
    target.name: target
    for target in (
        Target(
            "connection-string",
            client.connection_string,
            (ConfigurationError,),
            (
                b"Endpoint=sb://h.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=k=;EntityPath=q",
                b"Endpoint=http://127.0.0.1:8080/;SharedAccessSignature=SharedAccessSignature sr=a&sig=b&se=1&skn=c",
                b"Endpoint=sb://localhost:5672;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true",
                b"Endpoint=https://[::1]:443/p;SharedAccessKeyName=n;SharedAccessKey=k;TransportType=AmqpWebSockets",
            ),
        ),
        Target(
            "namespace",
            client.namespace,
            (ConfigurationError,),
            (b"myns", b"a.b:5671", b"=https://[::1]:8080/a/b", b"=sb://h"),
        ),
        Target(
            "receipt",
            client.receipt,
            (InvalidReceiptError,),
            tuple(
                str(ReceiptHandle("t", at, queue_name="q", session_id="s/x", route=route)).encode()
                for at in (None, datetime(2025, 1, 2, tzinfo=timezone.utc))
                for route in ("", "ab12")
            ),
        ),
        Target("duration", client.duration, (ValidationError,), (b"PT30S", b"P1DT2H3M4.5S", b"P10675199DT2H48M5.4775807S")),
        Target("queue", client.queue, _MALFORMED, (_QUEUE, b"{}", _DEEP)),
        Target(
            "date",
            client.date,
            (MalformedError,),
            (b"Mon, 02 Jan 2023 03:04:05 GMT", b"2023-01-02T03:04:05.1234567Z", b"20230102"),
        ),
        Target(
            "retry-after",
            client.retry_after,
            (),
            (b"5", b" 1.5 ", b"Mon, 02 Jan 2023 03:04:05 GMT", b"Mon, 02 Jan 2023 03:04:05 +0100", b"2 Jan 23 3:4 EST"),
        ),
        Target(
            "error-answer",
            client.error_answer,
            (),
            (
                b'\x00\x64\n{"error":{"code":"SessionLocked","message":"no"}}',
                b'\x00\x71MessageTooLarge\n{"error":{"size":5,"limit":4,"maybeDelivered":true}}',
                b"\x00\x65\n<Error><Code>404</Code><Detail>40400: not found. TrackingId</Detail></Error>",
            ),
        ),
        Target(
            "data-file",
            client.data_file,
            (ValidationError,),
            (
                b'{"session_id":"a","position":2}\n{"session_id":"a","position":1}\n',
                b'\xef\xbb\xbf{"x":1}\r\n\r\n{"position":"z"}',
            ),
        ),
        Target(
            "key-file", client.key_file, (ConfigurationError,), (b"root:abc=:Manage\n", b"a:b:Send,Listen\n\nc:d:listen\r\n")
        ),
        Target("single", wire.single, _MALFORMED, (_SINGLE, b'brokerproperties: {"SessionId":"s"}\n\n')),
        Target(
            "envelope",
            wire.envelope,
            _MALFORMED,
            (b"[" + _ITEM + b"]", b'[{"Body":"x","BrokerProperties":{"SessionId":"s"}}]'),
        ),
        Target(
            "answer",
            wire.answer,
            wire.ALLOWED,
            (
                _choice("receive", 201) + _LOCK + _SINGLE,
                _choice("receive many", 201) + _LOCK + b"Azsession-Count: 1\n\n[" + _ITEM + b"]",
                _choice("accept", 201) + _LOCK + b'\n\n{"SessionId":"s"}',
                _choice("renew", 204) + _LOCK,
                _choice("settle", 200) + b'\n\n{"failed":[{"LockToken":"t","code":"Conflict"}]}',
                _choice("receive deferred", 201) + b"Azsession-Count: 1\n\n[" + _ITEM + b"]",
                _choice("dead-letter session", 200) + b'\n\n{"count":3}',
                _choice("peek", 200) + b"\n\n[" + _ITEM + b"]",
                _choice("list sessions", 200)
                + b'\n\n{"sessions":[{"SessionId":"s","MessageCount":1,"LockedUntilUtc":"Mon, 02 Jan 2023 03:04:05 GMT"}]}',
                _choice("queue", 200) + b'\n\n{"QueueName":"q",' + _QUEUE[1:],
                _choice("queues", 200) + b'\n\n{"queues":[{"QueueName":"q",' + _QUEUE[1:] + b"]}",
            ),
        ),
        Target(
            "path",
            served.path,
            (NoRouteError, ValidationError),
            (
                b"\x03/orders/sessions/a%2Fb/messages/head",
                b"\x03/t/subscriptions/s/sessions/x/messages/" + _GUID,
                b"\x02/orders/sessions/x/messages/" + _GUID + b"/$deadletter",
                b"\x02/orders/$deadletterqueue/messages/12/resubmit",
                b"\x00/healthz",
                b"\x00/",
            ),
        ),
        Target(
            "decoded-path",
            served.decoded_path,
            (NoRouteError, ValidationError),
            (
                b"\x03/orders/sessions/a/b/messages/head",
                b"\x01/orders/sessions/a/b/messages/" + _GUID,
                b"\x00/orders/sessions",
            ),
        ),
        Target(
            "query",
            served.query,
            (ValidationError,),
            (b"timeout=1.5&max=3", b"from=9223372036854775807&after=a%2Fb", b"max=&max="),
        ),
        Target("token", served.token, (AuthenticationFailedError, PermissionDeniedError), (_TOKEN, _TOKEN + b"\nother:1")),
        Target("access-key", served.access_key, (ConfigurationError,), (b"app:SECRET:Send,Listen", b"a:b:c:Manage")),
        Target(
            "request",
            served.request,
            (),
            (
                b"\x01/new\n\n" + _QUEUE,
                b"\x01/new\n\n" + _DEEP,
                b"\x02/q/messages\n\n[" + _ITEM + b"]",
                b"\x02/q/messages\nContent-Type: text/plain\n" + _PROPERTIES + b"\n\nbody",
                b"\x03/q/sessions/s/messages/head?timeout=0&max=5\n\n",
                b"\x03/q/sessions/s/messages/head?timeout=0\nAzsession-Lock-Id: l\nAzsession-Request-Id: r\n\n",
                b"\x02/q/sessions?timeout=0\n\n{}",
                b'\x02/q/sessions/s/messages/$settle\n\n{"complete":["t"],"deadletter":[{"LockToken":"u"}]}',
                b'\x02/q/sessions/s/messages/$deferred\n\n{"SequenceNumbers":[1]}',
                b'\x02/q/sessions/s/$deadletter\n\n{"DeadLetterReason":"r"}',
                b"\x01/q/sessions/s/state\n\nstate",
                b"\x00/q/sessions/s/messages?from=0&max=5\n\n",
                b"\x00/q/sessions?after=a\n\n",
                b"\x00/q/$deadletterqueue/messages\n\n",
                b"\x00/q\n\n",
            ),
        ),
        Target("amqp-frame", from_azure.frame, (MalformedFrameError,), _frames()),
        Target("amqp-message", from_azure.message, (MalformedFrameError,), _amqp_messages()),
        Target("amqp-response", from_azure.response, (MalformedFrameError,), _responses()),
        Target("endpoint-connection", endpoint.connection, (), endpoint.conversations()),
        Target("endpoint-websocket", endpoint.websocket, (), endpoint.websocket_conversations()),
        Target("endpoint-message", endpoint.message, (RefusedError,), (*_amqp_messages(), _SENT)),
        Target("endpoint-batch", endpoint.batch, (RefusedError,), (amqp.encode_batch([_SENT, _SENT]), _SENT)),
        Target(
            "websocket",
            from_azure.websocket,
            (OSError,),
            (b"\x82\x03abc\x89\x01p\x88\x00", b"\x82\x7e\x00\x02ab", b"\x80\x7f" + (2).to_bytes(8, "big") + b"ab"),
        ),
    )
}
