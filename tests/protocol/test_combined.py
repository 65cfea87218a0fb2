"""The answers of combined requests: what the gateway encodes, the client decodes."""

from __future__ import annotations

import json

import pytest

from azsession.messages import Message
from azsession.protocol.combined import combined_pieces, decode_combined
from azsession.protocol.wire import MalformedError
from azsession.validation import MAX_BATCH


def test_an_answer_has_its_other_result_and_its_messages() -> None:
    messages = [Message(body=b"a", session_id="s"), Message(body=b"\xff", session_id="s", attributes={"n": 1})]
    data = b"".join(combined_pieces(b'{"failed":[]}', messages))
    result, decoded = decode_combined(data)
    assert result == {"failed": []}
    assert decoded is not None
    assert [(fields["body"], fields["attributes"]) for fields in decoded] == [(b"a", {}), (b"\xff", {"n": 1})]


def test_an_answer_can_have_no_message() -> None:
    assert decode_combined(b"".join(combined_pieces(b'{"SessionId":"s"}', []))) == ({"SessionId": "s"}, [])
    assert decode_combined(b'{"failed":[{"LockToken":"t","code":"c"}]}')[1] is None


def test_each_piece_has_one_message_at_most() -> None:
    pieces = list(combined_pieces(b'{"failed":[]}', [Message(body=b"x" * 1000, session_id="s")] * 3))
    assert len(pieces) == 4
    assert max(map(len, pieces)) < 2000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"Messages": 1}',
        b'{"Messages": [1]}',
        b'{"Messages": [{"Body": 1}]}',
        b'{"SessionId": "s", "Messages": [',
    ],
)
def test_a_malformed_answer_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_combined(data)


def test_more_messages_than_a_batch_are_refused() -> None:
    with pytest.raises(MalformedError, match=str(MAX_BATCH)):
        decode_combined(json.dumps({"Messages": [{"Body": ""}] * (MAX_BATCH + 1)}).encode())
