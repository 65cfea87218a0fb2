"""`settle_on_success`: settles a message that another process received, according to the end of a task."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from celery import signals
from celery._state import get_current_task

from ...errors import InvalidReceiptError, QueueError
from ...logs import About, SessionLogger, get_logger
from ...messages import ReceiptHandle, ReceivedMessage
from .provider import current_provider

logger: SessionLogger = get_logger(__name__)

#: The attribute of a task's request that holds the receipts to settle at the end of the task.
_NOTED = "azsession_receipts"


class settle_on_success:  # noqa: N801 - used like a function
    """Settles a message that another process received, according to the end of a task.

    At the end of the ``with`` block the message is completed. If the task fails for good, it is abandoned. If Celery retries
    the task, it stays locked. Without ``with``, the message is settled at the end of the task, and an error is only logged.
    Entering the block makes no request. Leaving it blocks until the message is settled.

    Args:
        receipt: The received message, its receipt, or the receipt's text ``str(message.receipt)``.

    Raises:
        InvalidReceiptError: The text is not a receipt. Or, at the end of the block, the lock has expired or the message was
            already settled in another way. Then the work of the block is done, but the message is redelivered.
        ConfigurationError: At the end of the block: the setting of the app is wrong.
        ConnectionFailedError: At the end of the block: the server cannot be reached.
        ProviderError: At the end of the block: the server refused to complete the message.

    Example:

        @app.task
        def charge(receipt, text):
            with settle_on_success(receipt):
                charge_card(text)
    """

    def __init__(self, receipt: ReceivedMessage | ReceiptHandle | str) -> None:
        handle = receipt.receipt if isinstance(receipt, ReceivedMessage) else receipt
        self._receipt = ReceiptHandle.parse(str(handle))
        task = get_current_task()
        request = None if task is None else task.request
        self._noted: list[ReceiptHandle] | None = None
        self._app = None if task is None else task.app
        # Celery sends the signals about the end of a task only in workers, and for `apply`.
        if request is not None and not request.called_directly:
            self._noted = _noted(request)
            self._noted.append(self._receipt)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            _settle(self._app, self._receipt, is_done=True)
            if self._noted is not None:
                self._noted.remove(self._receipt)
        elif self._noted is None:
            _abandon(self._app, self._receipt)


def _noted(request: Any) -> list[ReceiptHandle]:
    found: list[ReceiptHandle] | None = getattr(request, _NOTED, None)
    if found is None:
        found = []
        setattr(request, _NOTED, found)
    return found


def _settle(app: Any, receipt: ReceiptHandle, *, is_done: bool) -> None:
    client = current_provider(app).session_from_receipt(receipt)
    try:
        if is_done:
            client.complete_message(receipt)
        else:
            client.abandon_message(receipt)
    finally:
        client.close()


def _complete(app: Any, receipt: ReceiptHandle) -> None:
    try:
        _settle(app, receipt, is_done=True)
    except QueueError as error:
        logger.error(
            "the task succeeded, but its message was not completed and will be redelivered: %s", error, **_about(receipt)
        )


def _abandon(app: Any, receipt: ReceiptHandle) -> None:
    try:
        _settle(app, receipt, is_done=False)
    except InvalidReceiptError as error:
        logger.info("the task failed, and the lock of its message is already gone: %s", error, **_about(receipt))
    except QueueError as error:
        logger.warning(
            "the task failed, and its message was not abandoned. It will be redelivered when its lock expires: %s",
            error,
            **_about(receipt),
        )


def _about(receipt: ReceiptHandle) -> About:
    return {"queue": receipt.queue_name, "session_id": receipt.session_id}


def _on_success(sender: Any = None, **_: object) -> None:
    for receipt in getattr(sender.request, _NOTED, ()):
        _complete(sender.app, receipt)


def _on_failure(sender: Any = None, **_: object) -> None:
    for receipt in getattr(sender.request, _NOTED, ()):
        _abandon(sender.app, receipt)


signals.task_success.connect(_on_success, weak=False, dispatch_uid="azsession.success")
signals.task_failure.connect(_on_failure, weak=False, dispatch_uid="azsession.failure")
