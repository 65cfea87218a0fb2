"""`get_logger`: the loggers of the package. Every module that logs gets its logger here.

Each record has the attributes `queue`, `session_id` and `sequence_number`, `None` where they do not apply. No record
shows a message body, a token, a key or a receipt, and no text of a record has a line break or another control character: the
arguments of a log call are changed accordingly. A call whose level is off costs only the check of the level.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypedDict

from . import interrupts
from .errors import printable

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

#: The name of the logger above all loggers of the package.
ROOT = "azsession"
#: The attributes of every record of the package.
FIELDS: tuple[str, ...] = ("queue", "session_id", "sequence_number")


class About(TypedDict, total=False):
    """The attributes of a record: the queue, the session and the message that it is about."""

    queue: str | None
    session_id: str | None
    sequence_number: int | None


#: The secret is the last group. The first patterns are those of connection strings and shared access signatures, the others
#: those of Microsoft Entra tokens, receipts and lock handles.
_SECRETS = re.compile(
    r"(?i)(SharedAccessKey=)[^;\s'\"]+|(\bsig=)[^&;\s'\"]+|(\bBearer\s+)[\w.~+/=-]+|(\baz[sl]1\.)[\w=-]+",
)


class _Text(str):
    """Text of a log record. It has no control characters, so its `repr` does not escape it again."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{self}'"


def redacted(text: str) -> str:
    """Return text without the secrets that can be told by their form: keys, signatures, tokens, receipts and lock handles."""
    return _SECRETS.sub(lambda found: f"{next(filter(None, found.groups()))}...", text)


def _shown(value: object) -> object:
    """Return an argument as a record may show it. Of a type that could contain a secret, only the name is shown."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, BaseException, os.PathLike)):
        return _Text(printable(redacted(str(value))))
    return f"<{type(value).__name__}>"


class SessionLogger(_Adapter):
    """A logger whose methods take `queue`, `session_id`, `sequence_number` and further fields of the record by name.

    Example::

        logger = get_logger(__name__)
        logger.info("took the session for %.0f s", 60, queue="orders", session_id="order-42")

    The arguments of the text are numbers, text, paths and exceptions. `repr` of a text puts it into quotes.
    """

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a record if the level is on. See the class for the arguments.

        If a handler or filter raises, the operation that logs does not fail. The traceback goes to ``sys.stderr``.
        """
        if self.isEnabledFor(level):
            exc_info, extra = kwargs.pop("exc_info", None), dict.fromkeys(FIELDS)
            extra.update(kwargs)
            older = interrupts.handled()
            try:
                # The frames of this method and of the one that called it are not where the record comes from.
                self.logger.log(level, msg, *map(_shown, args), exc_info=exc_info, extra=extra, stacklevel=2)
            except Exception as error:
                interrupts.let_pass(error, older)
                if logging.raiseExceptions and sys.stderr is not None:  # Like the handlers of the standard library.
                    with suppress(OSError):
                        traceback.print_exc()


def get_logger(name: str) -> SessionLogger:
    """Return the logger of a module.

    Args:
        name: The name of the module.
    """
    return SessionLogger(logging.getLogger(name), {})


# Without a handler, the standard library would print warnings of the package to stderr in programs that did not ask for it.
logging.getLogger(ROOT).addHandler(logging.NullHandler())
