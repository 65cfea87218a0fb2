"""`LineSender` says which line an error is about, and with which one to continue. `test_send` has it with a gateway."""

from __future__ import annotations

import pytest

from azsession import ConnectionFailedError, ProviderError, ServiceBusProvider
from azsession.cli.line_sending import LineSender


@pytest.fixture
def sender(azsession_provider: ServiceBusProvider) -> LineSender:
    return LineSender(azsession_provider, "q", "f.jsonl", 1, noun="line", did="imported")


def fail(error: Exception) -> None:
    raise error


def test_an_error_names_the_line_and_the_next_one(sender: LineSender) -> None:
    assert sender.handle([2, 3], lambda: "done") == "done"
    error = ProviderError("message 2 of 3: too large", accepted=1)
    with pytest.raises(
        ProviderError,
        match=r"^f.jsonl, line 7: the message: too large; 3 lines were imported, up to line 5; .*--resume-from 7$",
    ) as caught:
        sender.handle([5, 7, 9], lambda: fail(error))
    assert caught.value.accepted == 3


def test_lines_in_doubt_are_named(sender: LineSender) -> None:
    with pytest.raises(ProviderError, match="line 5: x; nothing is known to be imported; lines up to 9 may have been"):
        sender.handle([5, 9], lambda: fail(ProviderError("x")), in_doubt=True)
    with pytest.raises(ConnectionFailedError, match=r"lines up to 9 may have been imported, too; .*--resume-from 5$"):
        sender.handle([5, 9], lambda: fail(ConnectionFailedError("gone", maybe_delivered=True)))


def test_an_interrupt_says_how_to_continue(sender: LineSender, capsys: pytest.CaptureFixture[str]) -> None:
    sender.handle([1], lambda: None)
    with pytest.raises(KeyboardInterrupt), sender:
        sender.handle([3, 4], lambda: fail(KeyboardInterrupt()))  # type: ignore[arg-type]
    expected = "interrupted: 1 line was imported, up to line 1; lines up to 4 may have been imported, too; continue with "
    assert capsys.readouterr().err == f"{expected}--resume-from 3\n"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_between_two_pages_says_how_to_continue(
    sender: LineSender, capsys: pytest.CaptureFixture[str], interrupt: type[BaseException]
) -> None:
    sender.handle([1, 3], lambda: None)
    with pytest.raises(interrupt), sender:
        raise interrupt
    expected = "interrupted: 2 lines were imported, up to line 3; continue with --resume-from 4\n"
    assert capsys.readouterr().err == expected


def test_an_interrupt_before_the_first_page_says_where_to_begin(
    azsession_provider: ServiceBusProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), LineSender(azsession_provider, "q", "f.jsonl", 7):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted: nothing was sent; continue with --resume-from 7\n"


def test_the_end_and_an_error_are_no_interrupt(sender: LineSender, capsys: pytest.CaptureFixture[str]) -> None:
    with sender:
        sender.handle([1], lambda: None)
    with pytest.raises(ProviderError), sender:
        sender.handle([2], lambda: fail(ProviderError("x")))
    assert capsys.readouterr().err == ""
