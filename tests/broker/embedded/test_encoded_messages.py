"""Messages that came over AMQP: the broker keeps their encoded parts, and returns them to callers that ask for them."""

from __future__ import annotations

from pathlib import Path

from azsession import Message
from azsession.broker.calls import (
    CallContext,
    Disposition,
    EncodedMessage,
    EncodedPeekedMessage,
    EncodedReceivedMessage,
    ReceiveRequest,
    Settlement,
    encoded_of,
)
from azsession.broker.embedded import EmbeddedBroker
from azsession.messages import PeekedMessage, ReceivedMessage

ENCODED = CallContext(encoded=True)
REQUEST = ReceiveRequest("q", "s", "holder", max_count=10, timeout=0)


def opened(path: Path) -> EmbeddedBroker:
    return EmbeddedBroker(path, queues=["q"])


def test_encoded_parts_survive_a_restart_and_every_move(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as broker:
        broker.send("q", [EncodedMessage(b"1", session_id="s", encoded=b"parts"), Message(b"2", session_id="s")]).result()
    with opened(tmp_path / "data") as broker:
        received = broker.receive(REQUEST, context=ENCODED).result().messages
        assert [(type(one), one.body, encoded_of(one)) for one in received] == [
            (EncodedReceivedMessage, b"1", b"parts"),
            (EncodedReceivedMessage, b"2", None),
        ]
        assert [encoded_of(one) for one in broker.peek("q", "s", 0, 10, context=ENCODED).result()] == [b"parts", None]
        token = received[0].receipt.handle
        broker.settle("q", "s", [Settlement(token, Disposition.DEFER)]).result()
        (deferred,) = broker.receive_deferred("q", "s", "holder", [1], context=ENCODED).result()
        assert encoded_of(deferred) == b"parts"
        broker.settle("q", "s", [Settlement(deferred.receipt.handle, Disposition.DEAD_LETTER, "why")]).result()
        (dead,) = broker.dead_letters("q", 0, 10, context=ENCODED).result()
        assert (type(dead), encoded_of(dead)) == (EncodedPeekedMessage, b"parts")


def test_other_callers_get_plain_messages(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as broker:
        broker.send("q", [EncodedMessage(b"1", session_id="s", encoded=b"parts")]).result()
        (peeked,) = broker.peek("q", "s", 0, 10).result()
        (received,) = broker.receive(REQUEST).result().messages
        assert (type(peeked), type(received)) == (PeekedMessage, ReceivedMessage)
