"""The loggers of the package: the fields of each record, and secrets and control characters in arguments."""

from __future__ import annotations

import ast
import logging
import signal
from datetime import datetime, timezone
from pathlib import Path

import pytest

from azsession import ProviderError, ReceiptHandle, ReceivedMessage
from azsession.client.lock_handle import LockHandle
from azsession.logs import FIELDS, SessionLogger, get_logger

from .support.paths import ROOT

NAME = "azsession.tests"


@pytest.fixture
def logger(caplog: pytest.LogCaptureFixture) -> SessionLogger:
    caplog.set_level(logging.DEBUG, NAME)
    return get_logger(NAME)


def test_a_record_has_the_fields_that_it_was_given(logger: SessionLogger, caplog: pytest.LogCaptureFixture) -> None:
    logger.info("message %d of %r", 7, "s1", queue="orders", session_id="s1", sequence_number=7)
    (record,) = caplog.records
    assert record.getMessage() == "message 7 of 's1'"
    assert [getattr(record, name) for name in FIELDS] == ["orders", "s1", 7]


@pytest.mark.parametrize("name", ["debug", "info", "warning", "error", "critical"])
def test_a_record_without_fields_has_them_as_none(logger: SessionLogger, caplog: pytest.LogCaptureFixture, name: str) -> None:
    getattr(logger, name)("started")
    (record,) = caplog.records
    assert [getattr(record, each, "missing") for each in FIELDS] == [None, None, None]
    assert record.levelname.lower() == name


def test_a_record_names_the_line_that_logged_it(logger: SessionLogger, caplog: pytest.LogCaptureFixture) -> None:
    logger.warning("here")
    (record,) = caplog.records
    assert (record.filename, record.funcName) == ("test_logs.py", "test_a_record_names_the_line_that_logged_it")


def test_an_exception_is_logged_with_its_traceback(logger: SessionLogger, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ProviderError("the broker failed")
    except ProviderError as error:
        logger.exception("failed: %s", error)
    (record,) = caplog.records
    assert record.getMessage() == "failed: the broker failed"
    assert "Traceback" in caplog.text


def test_a_handler_that_raises_does_not_fail_the_operation_that_logs(
    logger: SessionLogger, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ValueError("the handler is broken")

    handler = Broken()
    logger.logger.addHandler(handler)
    try:
        logger.warning("here")
    finally:
        logger.logger.removeHandler(handler)
    assert "ValueError: the handler is broken" in capsys.readouterr().err


def test_an_exception_of_a_signal_handler_passes_through_a_log_handler(logger: SessionLogger) -> None:
    def on_signal(number: int, frame: object) -> None:
        raise ValueError("a signal")

    class Interrupted(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            signal.raise_signal(signal.SIGUSR1)
            return True

    handler, before = Interrupted(), signal.signal(signal.SIGUSR1, on_signal)
    logger.logger.addHandler(handler)
    try:
        with pytest.raises(ValueError, match="a signal"):
            logger.warning("here")
    finally:
        logger.logger.removeHandler(handler)
        signal.signal(signal.SIGUSR1, before)


def test_control_characters_are_escaped(logger: SessionLogger, caplog: pytest.LogCaptureFixture) -> None:
    hostile = "s1\nERROR forged \x1b[31m\u202e\ud800"
    logger.info("%s and %r: %s", hostile, hostile, ProviderError(f"no session {hostile}"))
    text = caplog.records[0].getMessage()
    assert text.isprintable()
    # Errors have no line breaks of their own.
    assert text.count("s1\\x0aERROR forged \\x1b[31m\\u202e\\ud800") == 2
    assert text.endswith("no session s1 ERROR forged \\x1b[31m\\u202e\\ud800")


def test_a_path_is_shown(logger: SessionLogger, caplog: pytest.LogCaptureFixture) -> None:
    logger.info("%s and %r", Path("a/b"), Path("c"))
    assert caplog.messages == ["a/b and 'c'"]


SECRET = "5ecre7-0000"
RECEIPT = ReceiptHandle(SECRET, queue_name="orders", session_id="s1")
HANDLE = LockHandle("orders", "s1", SECRET, datetime.now(timezone.utc)).text()


@pytest.mark.parametrize(
    "argument",
    [
        RECEIPT,
        str(RECEIPT),
        str.__str__(HANDLE),
        f"the receipt {RECEIPT} is old",
        ReceivedMessage(body=SECRET.encode(), receipt=RECEIPT, delivered_at=datetime.now(timezone.utc)),
        SECRET.encode(),
        [SECRET],
        {"key": SECRET},
        f"Endpoint=sb://x/;SharedAccessKeyName=app;SharedAccessKey={SECRET}",
        f"SharedAccessSignature sr=x&sig={SECRET}&se=1&skn=app",
        f"Authorization: Bearer {SECRET}",
        ProviderError(f"the server refused Bearer {SECRET}"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("form", ["%s", "%r"])
def test_no_argument_shows_a_secret(
    logger: SessionLogger, caplog: pytest.LogCaptureFixture, argument: object, form: str
) -> None:
    logger.info(form, argument)
    packed = str(RECEIPT)[6:30]
    assert SECRET not in caplog.text
    assert packed not in caplog.text


def test_a_level_that_is_off_reads_no_argument() -> None:
    logger = get_logger("azsession.tests.off")

    class Unreadable:
        def __str__(self) -> str:
            raise AssertionError("the argument was read")

    logger.debug("%s", Unreadable(), queue="orders")
    assert not logger.isEnabledFor(logging.DEBUG)


def test_the_package_has_a_null_handler() -> None:
    assert any(isinstance(each, logging.NullHandler) for each in logging.getLogger("azsession").handlers)


def test_every_module_gets_its_logger_here() -> None:
    found = [
        str(path)
        for path in (ROOT / "azsession").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node) == "logging.getLogger(__name__)"
    ]
    assert found == []
