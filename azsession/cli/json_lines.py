"""Reads JSON lines files: messages, for `azsession send` and `azsession demo`, and the lines of `azsession import`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

import attrs
import click

from ..errors import ValidationError
from ..messages import AttributeValue, JSONValue, Message
from ..validation import check_session_id

T = TypeVar("T")

#: Bytes of a line at most: Azure's largest message, in base64, with its properties.
MAX_LINE = 160 * 1024 * 1024


@attrs.frozen(kw_only=True)
class LineFields:
    """The fields of a line that become properties of its message.

    A name is a key of the line's object, or leads into objects with dots, for example ``payload.repository.id``.

    Attributes:
        session_id: The field of the session id: text or a number.
        subject: The field of the subject: text or a number. `None`: messages have no subject.
        attributes: The field of the attributes: an object of texts, numbers and booleans. `None`: no attributes.
    """

    session_id: str = "session_id"
    subject: str | None = None
    attributes: str | None = None


@attrs.frozen
class Line:
    """A line of the file.

    Attributes:
        number: Its number, 1 for the first line of the file.
        message: The message. Its body is the whole line.
    """

    number: int
    message: Message


def name_of(file: BinaryIO) -> str:
    """Return the name of a file for error messages."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and name not in ("<stdin>", "standard input") else "standard input"


def read_lines(
    file: BinaryIO, session_id: str | None = None, fields: LineFields | None = None, *, start: int = 1
) -> list[Line]:
    """Return a message for each line of a JSON lines file. Skip empty lines.

    Args:
        file: The open file.
        session_id: The session of lines that have no session id.
        fields: The fields that become properties of the message.
        start: The number of the first line to read. Earlier lines are not checked.

    Raises:
        ValidationError: A line is malformed. The error names the line and the reason.
        UsageError: `start` is behind the last line.
    """
    own = fields or LineFields()

    def parse(body: bytes) -> Message:
        return _message(body, session_id, own)

    return [Line(number, message) for number, message in parsed_lines(file, parse, start=start)]


def parsed_lines(
    file: BinaryIO, parse: Callable[[bytes], T], *, start: int = 1, outcome: str = "nothing was sent"
) -> Iterator[tuple[int, T]]:
    """Yield the number and the content of each line that is not empty. Keeps one line in memory.

    Args:
        file: The open file.
        parse: Returns the content of a line. Raises `ValidationError` if the line is malformed.
        start: The number of the first line to parse.
        outcome: The end of the error about a malformed line.

    Raises:
        ValidationError: A line is malformed, or longer than `MAX_LINE`. The error names the line and the reason.
        UsageError: `start` is behind the last line.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        body = line.rstrip(b"\r\n")
        if number == 1:
            body = body.removeprefix(b"\xef\xbb\xbf")
        if number < start:
            _skip_rest(file, line)
        elif body.strip():
            try:
                if len(body) > MAX_LINE:
                    raise ValidationError(f"longer than {MAX_LINE} bytes")
                content = parse(body)
            except ValidationError as error:
                raise ValidationError(f"{name_of(file)}, line {number}: {error}; {outcome}") from None
            yield number, content
    if number < start and start > 1:
        raise click.UsageError(f"{name_of(file)} has {number} lines, so --resume-from {start} is too high")


def _skip_rest(file: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE)


def json_object(line: bytes) -> dict[str, JSONValue]:
    """Return the object in a line.

    Raises:
        ValidationError: The line is no JSON object.
    """
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValidationError(f"not UTF-8, at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValidationError(f"not JSON: {error.msg}, at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise ValidationError("not readable JSON: a number is too large, or the nesting is too deep") from None
    if not isinstance(value, dict):
        raise ValidationError("not a JSON object")
    return value


def _message(line: bytes, session_id: str | None, fields: LineFields) -> Message:
    value = json_object(line)
    own = _field(value, fields.session_id)
    if own is None and session_id is None:
        raise ValidationError(f"no {fields.session_id}, and no --session-id was given")
    return Message(
        line,
        session_id=session_id if own is None else check_session_id(_text(own, fields.session_id, "a session id")),
        subject=_text(_field(value, fields.subject), fields.subject, "a subject"),
        attributes=_attributes(_field(value, fields.attributes), fields.attributes),
        content_type="application/json",
    )


def _field(value: dict[str, JSONValue], name: str | None) -> JSONValue:
    """Return the value of a field, or `None` if it is missing or null."""
    if name is None:
        return None
    if name in value:
        return value[name]
    found: JSONValue = value
    for key in name.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _text(value: JSONValue, name: str | None, use: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValidationError(f"{name} cannot be {use}: it must be text or a number, not {_kind(value)}")
    return str(value)


def _attributes(value: JSONValue, name: str | None) -> dict[str, AttributeValue]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValidationError(f"{name} cannot be the attributes: it must be an object, not {_kind(value)}")
    attributes: dict[str, AttributeValue] = {}
    for key, each in value.items():
        if isinstance(each, (dict, list)):
            kinds = "text, a number or a boolean"
            raise ValidationError(f"{name} cannot be the attributes: {key!r} is {_kind(each)}, not {kinds}")
        if each is not None:
            attributes[key] = each
    return attributes


def _kind(value: JSONValue) -> str:
    """Return the type of a value as JSON names it."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return f"{value}"
    return "an object" if isinstance(value, dict) else "an array" if isinstance(value, list) else "text"
