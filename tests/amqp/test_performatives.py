"""Frames that arrive: performatives as named tuples, with the defaults of the standard."""

from __future__ import annotations

from typing import Any

import pytest
from azure.servicebus._pyamqp.endpoints import Source, Target
from azure.servicebus._pyamqp.performatives import AttachFrame

from azsession import amqp
from azsession.amqp import ABSENT, Begin, Condition, Disposition, Open, SaslMechanisms, SaslOutcome, decode_frame

from .amqp_bytes import described, from_the_sdk, symbol


def test_missing_fields_have_the_defaults_of_the_standard() -> None:
    assert decode_frame(described(amqp.OPEN, "c"))[1] == Open(0xFFFFFFFF, 65535, None, None, "c")
    assert decode_frame(described(amqp.BEGIN, 1, 2, 3, 4))[1] == Begin(1, 2, 3, 4, 0xFFFFFFFF)
    assert decode_frame(described(amqp.DISPOSITION, True, 5))[1] == Disposition(True, 5, 5, False, None, None)
    assert decode_frame(b"\x00\x53\x18\x45") == (amqp.CLOSE, (None,))


def test_a_refused_attach_has_neither_source_nor_target() -> None:
    attach = decode_frame(described(amqp.ATTACH, "n", 1, False))[1]
    assert (attach.has_source, attach.has_target, attach.session_id) == (False, False, ABSENT)


def test_an_attach_has_the_session_of_its_filter_and_the_lock_of_its_properties() -> None:
    source = Source(address="q", filters={b"com.microsoft:session-filter": "given"})
    performative = AttachFrame(
        "n", 1, False, 0, 1, source, Target(address="t"), None, None, 0, 262144, None, None,
        {"com.microsoft:locked-until-utc": {"TYPE": "LONG", "VALUE": 638000000000000000}},
    )  # fmt: skip
    attach = decode_frame(from_the_sdk(performative)[8:])[1]
    assert (attach.session_id, attach.max_message_size) == ("given", 262144)
    assert attach.properties == {"com.microsoft:locked-until-utc": 638000000000000000}


@pytest.mark.parametrize("code", [amqp.DETACH, amqp.END, amqp.CLOSE])
def test_an_error_has_its_condition_description_and_details(code: int) -> None:
    error = {
        "TYPE": "DESCRIBED",
        "VALUE": ({"TYPE": "ULONG", "VALUE": 0x1D}, [symbol("amqp:not-found"), "gone", {"a": 1}]),
    }
    fields: list[Any] = [1, True, error] if code == amqp.DETACH else [error]
    assert decode_frame(described(code, *fields))[1].error == Condition("amqp:not-found", "gone", {"a": 1})


def test_sasl_mechanisms_may_come_as_an_array_or_as_one_symbol() -> None:
    array = {"TYPE": "ARRAY", "VALUE": [symbol("PLAIN"), symbol("ANONYMOUS")]}
    assert decode_frame(described(0x40, array))[1] == SaslMechanisms(["PLAIN", "ANONYMOUS"])
    assert decode_frame(described(0x40, symbol("ANONYMOUS")))[1] == SaslMechanisms(["ANONYMOUS"])
    assert decode_frame(described(0x44, 0))[1] == SaslOutcome(0)


def test_a_descriptor_may_be_a_symbol_or_an_eight_byte_number() -> None:
    assert decode_frame(b"\x00\xa3\x0famqp:close:list\x45")[0] == amqp.CLOSE
    assert decode_frame(b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x18\x45")[0] == amqp.CLOSE
