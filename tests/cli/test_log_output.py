"""The log of `azsession serve` and `azsession consume`: what each option shows, as lines and as JSON, and the access log."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from azsession import Message, ServiceBusConfig, ServiceBusProvider
from azsession.cli.log_output import JsonFormatter, LineFormatter

from ..processor.helpers import QUEUE
from ..support.processes import Served, run, run_here
from .test_consume import consume

HOSTILE = "s1\nERROR forged \x1b[31m"
BODY = "a body that no log may show"


def work(connection_string: str) -> None:
    """Receive a message of a session with a hostile id, and dead-letter it."""
    with ServiceBusProvider.from_connection_string(connection_string) as provider:
        provider.send_message("orders", Message(BODY, session_id=HOSTILE))
        with provider.create_session_client("orders", HOSTILE) as session:
            message = session.receive_message(timeout=10)
            assert message is not None
            session.dead_letter_message(message, "Malformed")


def log_of_serve(*options: str) -> tuple[list[str], str]:
    """Return the lines that a gateway writes to stderr while a client uses it, and its key."""
    with Served("--memory", "--auto-create", *options) as served:
        work(served.line)
        status, _, err = served.end()
        assert status == 0
    credentials = ServiceBusConfig(connection_string=served.line).credentials
    assert credentials is not None
    return err.splitlines(), str(credentials.key)


def test_serve_logs_no_events_by_default() -> None:
    lines, _ = log_of_serve()
    assert [line for line in lines if "session" in line and "azsession" not in line] == []
    assert not any("took" in line or "DELETE" in line for line in lines)


def test_serve_with_v_logs_sessions_and_dead_letters_and_no_requests() -> None:
    lines, _ = log_of_serve("-v")
    text = "\n".join(lines)
    took = r"(?m)^\S+Z INFO    azsession\.server\.session_handlers: a client took the session 's1\\x0aERROR forged"
    assert re.search(took, text)
    assert re.search(r"INFO    azsession\.broker\.\S+: message 1 of the session .* was dead-lettered: Malformed", text)
    assert "access_log" not in text


@pytest.mark.parametrize("options", [["--access-log"], ["-vv"]], ids=" ".join)
def test_serve_writes_an_access_log(options: list[str]) -> None:
    lines, key = log_of_serve(*options)
    requests = [line for line in lines if "access_log" in line]
    pattern = (
        r"^\S+Z DEBUG   azsession\.server\.http\.access_log: 127\.0\.0\.1:\d+ RootManageSharedAccessKey DELETE "
        r"/orders/sessions/\{sid\}/messages/head 201 \d+\.\d ms session 's1\\x0aERROR forged \\x1b\[31m'$"
    )
    assert len([line for line in requests if re.match(pattern, line)]) == 1
    assert len([line for line in requests if "/orders/messages 201" in line]) == 1
    text = "\n".join(lines)
    assert ("a client took" in text) == (options == ["-vv"])
    assert not re.search(r"sig=|SharedAccessSignature|\bERROR forged .*\n.*\x1b", text)
    assert key not in text
    assert BODY not in text


def test_serve_with_log_json_writes_nothing_but_json_to_stderr() -> None:
    lines, key = log_of_serve("-vv", "--log-json")
    records = [json.loads(line) for line in lines]
    for record in records:
        assert list(record)[:7] == ["time", "level", "logger", "message", "queue", "session_id", "sequence_number"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
    (request,) = [each for each in records if each.get("route") == "/orders/sessions/{sid}/messages/head"]
    assert {name: request[name] for name in ("queue", "session_id", "method", "status", "key")} == {
        "queue": "orders",
        "session_id": HOSTILE,
        "method": "DELETE",
        "status": 201,
        "key": "RootManageSharedAccessKey",
    }
    assert request["client"].startswith("127.0.0.1:")
    assert request["ms"] >= 0
    assert any(record["message"].startswith("azsession ") and " listens on " in record["message"] for record in records)
    assert key not in "\n".join(lines)


def test_consume_logs_start_stop_and_failures_as_json(tmp_path: Path) -> None:
    with Served("--memory", "--queue", QUEUE) as served:
        with ServiceBusProvider.from_connection_string(served.line) as provider:
            provider.send_message(QUEUE, Message(BODY, session_id="s1"))
        process = consume(served.line, tmp_path / "report", "refuse", "-v", "--log-json", "--until-empty")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    records: list[dict[str, Any]] = [json.loads(line) for line in err.splitlines()]
    texts = [(record["level"], record["message"]) for record in records]
    assert ("INFO", f"the session processor of {QUEUE!r} starts with 8 slots") in texts
    assert ("INFO", f"the session processor of {QUEUE!r} has stopped") in texts
    (dead,) = [record for record in records if record["message"].startswith("dead-lettered")]
    assert (dead["queue"], dead["session_id"], dead["sequence_number"]) == (QUEUE, "s1", 1)
    assert BODY not in err


def test_the_error_that_ends_a_command_is_json_too() -> None:
    with Served("--memory") as served:
        ended = run("consume", "missing", "builtins:print", "--log-json", connection_string=served.line)
    assert ended.returncode == 1
    last = json.loads(ended.stderr.splitlines()[-1])
    assert (last["level"], last["logger"]) == ("ERROR", "azsession.cli")
    assert "missing" in last["message"]


def test_a_line_of_another_package_cannot_forge_lines() -> None:
    record = logging.makeLogRecord({"name": "other", "msg": "a\nb \x1b[31m", "levelname": "INFO"})
    assert LineFormatter("%(name)s: %(message)s").format(record) == "other: a\\x0ab \\x1b[31m"


def test_a_json_line_has_the_traceback_and_values_of_any_type() -> None:
    try:
        raise ValueError("on purpose")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "x %d", "args": (1,), "exc_info": (ValueError, error, error.__traceback__)})
    record.path = Path("x")
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["path"], line["queue"]) == ("x 1", "x", None)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: on purpose")


def test_a_command_leaves_the_loggers_as_they_were() -> None:
    before = logging.getLogger("azsession").level
    assert run_here("consume", "orders", "builtins:print", "-vv", "--log-json").returncode == 1
    assert logging.getLogger("azsession").level == before


def test_a_json_line_in_a_span_has_its_ids() -> None:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, use_span

    record = logging.makeLogRecord({"msg": "x"})
    assert "trace_id" not in json.loads(JsonFormatter().format(record))
    with use_span(NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False))):
        line = json.loads(JsonFormatter().format(record))
    assert (line["trace_id"], line["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")
