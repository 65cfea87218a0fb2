"""Reading messages from JSON lines."""

from __future__ import annotations

import io
import json

import click
import pytest

from azsession import ValidationError
from azsession.cli.json_lines import LineFields, read_lines

from ..conftest import WEBHOOKS


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"[1]", "not a JSON object"),
        (b'{"id": 1}', "no session_id"),
        (b'{"session_id": true}', "session_id cannot be a session id: .* not a boolean"),
        (b'{"session_id": [1]}', "session_id cannot be a session id: .* not an array"),
        (b'{"session_id": NaN}', "session_id cannot be a session id: .* not nan"),
        (b'{"session_id": null}', "no session_id"),
        (b'{"session_id": "' + b"x" * 129 + b'"}', "at most 128 characters"),
        (b'{"session_id": "\xff"}', "not UTF-8, at byte 17"),
        (b"[" * 100_000, "nesting is too deep"),
    ],
)
def test_the_error_of_a_malformed_line_says_what_is_wrong(line: bytes, why: str) -> None:
    with pytest.raises(ValidationError, match=f"^standard input, line 3: .*{why}.*; nothing was sent$"):
        read_lines(io.BytesIO(b'{"session_id": "a"}\n\n' + line))


def test_the_message_body_is_the_line_byte_for_byte() -> None:
    line = '{ "session_id":"a" , "n":1.50, "name":"Zoë"}'.encode()
    [read] = read_lines(io.BytesIO(b"\xef\xbb\xbf" + line + b"\r\n\r\n"))
    assert (read.number, read.message.body, read.message.session_id) == (1, line, "a")


@pytest.mark.parametrize(
    ("line", "session_id"),
    [
        ({"session_id": 42}, "42"),
        ({"session_id": 1.5}, "1.5"),
        ({"session_id": "own"}, "own"),
        ({"session_id": None}, "rest"),
        ({}, "rest"),
    ],
)
def test_a_session_id_is_text_or_a_number_and_null_is_none(line: dict[str, object], session_id: str) -> None:
    [read] = read_lines(io.BytesIO(json.dumps(line).encode()), "rest")
    assert read.message.session_id == session_id


def test_fields_become_the_session_id_the_subject_and_the_attributes() -> None:
    line = {"order": {"id": 7}, "kind": "paid", "meta": {"n": 1, "big": True, "who": "Zoë", "none": None}}
    fields = LineFields(session_id="order.id", subject="kind", attributes="meta")
    [read] = read_lines(io.BytesIO(json.dumps(line).encode()), fields=fields)
    assert (read.message.session_id, read.message.subject) == ("7", "paid")
    assert read.message.attributes == {"n": 1, "big": True, "who": "Zoë"}


def test_a_field_whose_name_has_dots_comes_before_a_path() -> None:
    [read] = read_lines(io.BytesIO(b'{"a.b": "name", "a": {"b": "path"}}'), fields=LineFields(session_id="a.b"))
    assert read.message.session_id == "name"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"s": "a", "kind": {}}', "kind cannot be a subject: it must be text or a number, not an object"),
        (b'{"s": "a", "kind": false}', "kind cannot be a subject: it must be text or a number, not a boolean"),
        (b'{"s": "a", "meta": "x"}', "meta cannot be the attributes: it must be an object, not text"),
        (b'{"s": "a", "meta": {"k": [1]}}', "'k' is an array, not text, a number or a boolean"),
        (b'{"s": "a", "meta": {"k": 99999999999999999999}}', "'k' does not fit into 64 bits"),
        (b'{"s": "\\ud800"}', "lone surrogate"),
        (b'{"other": 1}', "no s, and no --session-id was given"),
    ],
)
def test_the_error_of_a_field_names_the_field_and_its_type(line: bytes, why: str) -> None:
    fields = LineFields(session_id="s", subject="kind", attributes="meta")
    with pytest.raises(ValidationError, match=f"^standard input, line 1: .*{why}.*; nothing was sent$"):
        read_lines(io.BytesIO(line), fields=fields)


def test_reading_starts_at_a_line_and_keeps_the_numbers() -> None:
    file = b'not checked\n\n{"session_id": "a"}\n\n{"session_id": "b"}\n'
    assert [line.number for line in read_lines(io.BytesIO(file), start=2)] == [3, 5]
    assert [line.number for line in read_lines(io.BytesIO(file), start=4)] == [5]
    with pytest.raises(click.UsageError, match="standard input has 5 lines, so --resume-from 6 is too high"):
        read_lines(io.BytesIO(file), start=6)


def test_webhooks_go_into_one_session_for_each_repository() -> None:
    fields = LineFields(session_id="payload.repository.id", subject="event")
    with WEBHOOKS.open("rb") as file:
        lines = read_lines(file, "no repository", fields)
    for line in lines:
        hook = json.loads(line.message.body)
        repository = hook["payload"].get("repository")
        assert line.message.session_id == ("no repository" if repository is None else str(repository["id"]))
        assert line.message.subject == hook["event"]
    assert len(lines) == 329
