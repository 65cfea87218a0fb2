"""The frames that only a server sends."""

from __future__ import annotations

from typing import Any

import pytest

from azsession import amqp
from azsession.amqp import Attach, Described, Symbol, Terminus

_CODE = 0x00000137000000C


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (Described(_CODE, None), Described(_CODE, "s")),
        (Described(Symbol(amqp.SESSION_FILTER), "s"), Described(amqp.SESSION_FILTER, "s")),
        ("s", "s"),
        (None, "s"),
    ],
    ids=["number", "symbol", "bare", "null"],
)
def test_the_filter_of_a_session_has_the_clients_form(asked: Any, answered: Any) -> None:
    # Azure's library for Go reads described values alone.
    source = Terminus("q", False, False, {amqp.SESSION_FILTER: asked})
    attach = decoded(amqp.attach_receiver(0, name="link", handle=0, address="q"))._replace(source=source)
    answer = decoded(amqp.attach_answer(0, attach, session_id="s"))
    assert answer.source is not None
    assert answer.source.filters == {amqp.SESSION_FILTER: answered}


def decoded(frame: bytes) -> Attach:
    code, attach = amqp.decode_frame(frame[8:])
    assert code == amqp.ATTACH
    assert isinstance(attach, Attach)
    return attach
