"""Parsers of the client: configuration, receipts, error responses and headers. Each function is one of `targets`."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace

import requests
from requests.structures import CaseInsensitiveDict

from azsession.cli.demo.data import by_session, choose_roles, from_messages
from azsession.cli.json_lines import read_lines
from azsession.config import ServiceBusConfig
from azsession.errors import QueueError
from azsession.messages import ReceiptHandle
from azsession.protocol import ERROR_CODE_HEADER
from azsession.protocol.dates import format_date
from azsession.protocol.error_codes import error_from, parse_seconds
from azsession.protocol.error_codes import parse_retry_after as read_retry_after
from azsession.protocol.queue_json import decode_queue, decode_queue_info, encode_queue, encode_queue_info, format_duration
from azsession.protocol.queue_json import parse_duration as read_duration
from azsession.protocol.wire import json_object
from azsession.protocol.wire import parse_date as read_date
from azsession.queues import QueueInfo
from azsession.tokens import source_of

_ABOUT = ("session", "receipt", "queue")


def text_of(data: bytes) -> str:
    """Return text as Python decodes the environment and arguments: bytes that are not UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def connection_string(data: bytes) -> None:
    """Parse a connection string, and sign a request with it."""
    config = ServiceBusConfig(connection_string=text_of(data))
    _check_place(config)
    if config.credentials is not None and (config.credentials.key or config.credentials.signature):
        header = source_of(config, None).fetch(f"{config.namespace_url}/q", refused=False).header
        assert header.isascii(), "a header is ASCII"
        assert header.isprintable(), "a header is one line"


def namespace(data: bytes) -> None:
    """Parse the name of a namespace or, after a ``=``, the URL of a gateway."""
    text = text_of(data)
    if not text.startswith("="):
        _check_place(ServiceBusConfig(namespace=text))
        return
    _check_place(ServiceBusConfig(gateway_url=text[1:], allow_insecure_http=True))
    _check_place(ServiceBusConfig(namespace="x").at(text[1:]))


def _check_place(config: ServiceBusConfig) -> None:
    assert 0 <= config.port <= 65535
    assert config.host
    prepared = requests.Request("GET", config.namespace_url + "/q")
    assert prepared.url is not None
    repr(config)


def receipt(data: bytes) -> None:
    """Parse a receipt. Its own text parses to the same receipt."""
    read = ReceiptHandle.parse(text_of(data))
    again = ReceiptHandle.parse(str(read))
    assert (again.handle, again.queue_name, again.session_id, again.route) == (
        read.handle,
        read.queue_name,
        read.session_id,
        read.route,
    )


def duration(data: bytes) -> None:
    """Parse an ISO 8601 duration. It survives conversion to text and back."""
    seconds = read_duration(text_of(data), "it")
    assert seconds >= 0
    if seconds < 1e9:
        assert math.isclose(read_duration(format_duration(seconds), "it"), seconds, abs_tol=1e-6)


def queue(data: bytes) -> None:
    """Parse the settings of a queue and a described queue. Both survive conversion to JSON and back."""
    described = json_object(data)
    settings = decode_queue(described)
    again = decode_queue(encode_queue(settings))
    assert math.isclose(again.lock_duration, settings.lock_duration, abs_tol=1e-6)
    assert again.max_delivery_count == settings.max_delivery_count
    info = decode_queue_info({"QueueName": "q", **described})
    assert isinstance(decode_queue_info(encode_queue_info(info)), QueueInfo)


def date(data: bytes) -> None:
    """Parse a date. It survives conversion to text and back."""
    instant = read_date(text_of(data))
    assert read_date(format_date(instant)) == instant.replace(microsecond=0)


def retry_after(data: bytes) -> None:
    """Parse a header with seconds."""
    text = data.decode("latin-1")
    for seconds in (read_retry_after(text), parse_seconds(text)):
        assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


def error_answer(data: bytes) -> None:
    """Parse an error response. The first two bytes choose the status and the subject of the request."""
    status, about = 300 + int.from_bytes(data[:2], "big") % 300, _ABOUT[sum(data[:2]) % 3]
    head, _, body = data[2:].partition(b"\n")
    headers = CaseInsensitiveDict({ERROR_CODE_HEADER: head.decode("latin-1")}) if head else CaseInsensitiveDict()
    error = error_from(status, headers, body, about, lock_expires_in=1.0)
    assert isinstance(error, QueueError)
    assert error.code is None or error.code.isascii()
    assert len(str(error)) <= 2048


def data_file(data: bytes) -> None:
    """Parse the JSON lines of `azsession send` and `azsession demo`."""
    messages = [line.message for line in read_lines(io.BytesIO(data), "session")]
    sent = from_messages(messages)
    assert sorted(one.body for one in sent) == sorted(message.body for message in messages)
    assert sum(len(one) for one in by_session(sent).values()) == len(messages)
    choose_roles(sent, 4, 1)


def key_file(data: bytes) -> None:
    """Parse the key file of a gateway."""
    from azsession.cli.keyfile import stored_keys

    path = _SCRATCH.path
    path.write_bytes(data)
    path.chmod(0o600)
    assert stored_keys(path)


_SCRATCH = SimpleNamespace(path=Path("never"))


def scratch_file(path: Path) -> None:
    """Set the file that `key_file` writes."""
    _SCRATCH.path = path
