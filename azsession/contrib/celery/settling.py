"""`settle_on_success`: a message that another process received, settled by what becomes of a task."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

from celery import signals
from celery._state import get_current_task

from ...errors import InvalidReceiptError, QueueError
from ...messages import ReceiptHandle, ReceivedMessage
from .provider import current_provider

logger: logging.Logger = logging.getLogger(__name__)

#: The attribute of a task's request that has what is to be settled.
_NOTED = "azsession_receipts"


class settle_on_success:  # noqa: N801 - used like a function
    """In a task, settle a message that was received elsewhere: ``with settle_on_success(receipt): ...``

    The message is completed when the block is done. An exception that ends the task for good abandons it; one after which
    Celery runs the task again leaves it as it is. Called without ``with``, it does the same when the task is over, but an
    error is logged then.

    Args:
        receipt: The message's receipt, or its text, ``str(message.receipt)``.

    Raises:
        InvalidReceiptError: It is not a receipt; at the end of the block: its lock is over, or the message was settled in
            another way. The block was run, and the message comes again.
        QueueError: At the end of the block: the message could not be completed.
    """

    def __init__(self, receipt: ReceivedMessage | ReceiptHandle | str) -> None:
        handle = receipt.receipt if isinstance(receipt, ReceivedMessage) else receipt
        self._receipt = ReceiptHandle.parse(str(handle))
        task = get_current_task()
        request = None if task is None else task.request
        self._noted: list[ReceiptHandle] | None = None
        self._app = None if task is None else task.app
        # Only in a worker, or where that is emulated, does anybody say how the task ended.
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
        logger.error("a message of a task that succeeded was not completed, and comes again: %s", error)


def _abandon(app: Any, receipt: ReceiptHandle) -> None:
    try:
        _settle(app, receipt, is_done=False)
    except InvalidReceiptError as error:
        logger.info("a message of a task that failed goes back by itself: %s", error)
    except QueueError as error:
        logger.warning("a message of a task that failed could not be given back, it comes when its lock is over: %s", error)


def _on_success(sender: Any = None, **_: Any) -> None:
    for receipt in getattr(sender.request, _NOTED, ()):
        _complete(sender.app, receipt)


def _on_failure(sender: Any = None, **_: Any) -> None:
    for receipt in getattr(sender.request, _NOTED, ()):
        _abandon(sender.app, receipt)


signals.task_success.connect(_on_success, weak=False, dispatch_uid="azsession.success")
signals.task_failure.connect(_on_failure, weak=False, dispatch_uid="azsession.failure")
