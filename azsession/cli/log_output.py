"""Where the log of a command goes, and in which form: lines for people, or JSON for programs, on stderr.

`group.run` begins and ends it. The options ``-v``, ``--log-json`` and ``--access-log`` change it.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import click

from ..errors import printable
from ..logs import FIELDS, ROOT, SessionLogger, get_logger

#: The logger of the access log.
ACCESS_LOG = "azsession.server.http.access_log"
#: The form of a line without options, and with ``-v``.
SHORT, LONG = "azsession: %(message)s", "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

#: The logger of notes and errors of commands, which are lines of their own unless the log is JSON.
logger: SessionLogger = get_logger("azsession.cli")

#: The attributes of every record, which the JSON form names differently or leaves out.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", *FIELDS}


class _UtcFormatter(logging.Formatter):
    """Formats times in UTC, with milliseconds."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - of the base class
        at = datetime.fromtimestamp(record.created, timezone.utc)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LineFormatter(_UtcFormatter):
    """Formats a record as a line. Control characters are escaped, also in the records of other packages."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and further lines for a traceback."""
        return printable(super().format(record), keep="\n\t" if record.exc_info or record.stack_info else "\t")


class JsonFormatter(_UtcFormatter):
    """Formats a record as one line of JSON.

    The names are ``time``, ``level``, ``logger``, ``message``; ``queue``, ``session_id``, ``sequence_number`` and further
    attributes of the record; ``trace_id`` and ``span_id`` in a span of OpenTelemetry; ``exception`` with the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, getattr(record, name, None)) for name in FIELDS)
        line.update((name, value) for name, value in record.__dict__.items() if name not in _STANDARD)
        line.update(trace_fields())
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def trace_fields() -> Mapping[str, str]:
    """Return the ids of the trace and of the current span, or nothing without a span."""
    # A program without OpenTelemetry must not load it.
    trace: Any = sys.modules.get("opentelemetry.trace")
    context = None if trace is None else trace.get_current_span().get_span_context()
    if context is None or not context.is_valid:
        return {}
    return {"trace_id": format(context.trace_id, "032x"), "span_id": format(context.span_id, "016x")}


class _Output:
    """The handler of the process, and whether the log is JSON. Only the main thread changes them."""

    def __init__(self) -> None:
        self.handler: logging.StreamHandler[Any] | None = None
        self.is_json = False


_output = _Output()


def is_json() -> bool:
    """Return whether the log is JSON, so that notes and errors must be records, too."""
    return _output.is_json


@contextmanager
def log_output() -> Iterator[None]:
    """Write warnings and errors to stderr until the ``with`` block ends, unless the process has handlers already."""
    names = (ROOT, logger.logger.name, ACCESS_LOG)
    levels = [logging.getLogger(name).level for name in names]
    if not logging.root.handlers:
        _output.handler = logging.StreamHandler()
        logging.root.addHandler(_output.handler)
    if _output.handler is not None:
        _output.handler.setStream(sys.stderr)
        _output.handler.setFormatter(LineFormatter(SHORT))
    # azure-identity logs at length each error that the command reports in one line.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        _output.is_json = False
        for name, level in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(level)


def configure(verbosity: int, *, as_json: bool, access_log: bool = False) -> None:
    """Apply the options of a command.

    Args:
        verbosity: 0 shows warnings and errors, 1 also INFO, and 2 or more also DEBUG.
        as_json: Write JSON, and notes and errors of the command as records.
        access_log: Show the access log, also if DEBUG is off.
    """
    if verbosity:
        logging.getLogger(ROOT).setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
    if access_log:
        logging.getLogger(ACCESS_LOG).setLevel(logging.DEBUG)
    if as_json:
        _output.is_json = True
        logging.getLogger("azsession.cli").setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    if _output.handler is not None and (as_json or verbosity or access_log):
        _output.handler.setFormatter(JsonFormatter() if as_json else LineFormatter(LONG))


def log_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``-v`` and ``--log-json`` to a command, and apply them before it runs. `access_log` of the command counts, too."""

    @click.option(
        "-v",
        "--verbose",
        "verbosity",
        count=True,
        help="Log on stderr: -v sessions, dead letters, repeated requests and the like (INFO), -vv also each request "
        "(DEBUG). Default: warnings and errors only.",
    )
    @click.option("--log-json", is_flag=True, help="Write the log, notes and errors on stderr as JSON, one object a line.")
    @functools.wraps(command)
    def with_options(*args: Any, verbosity: int, log_json: bool, access_log: bool = False, **options: Any) -> None:
        configure(verbosity, as_json=log_json, access_log=access_log)
        command(*args, **options)

    return with_options
