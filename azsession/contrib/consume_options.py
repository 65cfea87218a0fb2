"""The options of the commands that consume a queue, and how they become options of argparse.

`azsession consume`, ``flask azsession consume`` and Django's ``azsession_consume`` have these options. `consume_click` makes
options of click from the same table.
"""

from __future__ import annotations

from argparse import ArgumentParser
from enum import Enum
from typing import Any

import attrs


class Kind(Enum):
    """The kind of value that an option takes."""

    COUNT = "count"
    SECONDS = "seconds"
    SESSION_IDS = "session ids"
    FUNCTION = "function"
    FLAG = "flag"
    PORT = "port"
    ADDRESS = "address"


@attrs.frozen
class Option:
    """One option.

    Attributes:
        name: The argument of `SessionProcessor` or `run_processor` that the option sets.
        kind: The kind of its value.
        help: One sentence for the help text.
        default: The default of the argument of `SessionProcessor`.
        lowest: The lowest count that the command line accepts.
        highest: The highest count that the command line accepts. `SessionProcessor` checks all values too.
    """

    name: str
    kind: Kind
    help: str
    default: float | bool | str | None = None
    lowest: int = 1
    highest: int | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """The option as it is written on the command line, with its alias."""
        flag = "--" + self.name.replace("_", "-")
        return (flag.removesuffix("s"), flag) if self.kind is Kind.SESSION_IDS else (flag,)


#: The second sentence and the rest of the commands' help texts.
DESCRIPTION = (
    "Many sessions are handled at once, and the messages of each session in order. When the function returns, its message is "
    "completed. SIGTERM, SIGHUP and Ctrl-C let running functions finish and release all sessions. A second signal does not "
    "wait."
)
QUEUE_HELP = "The queue, or topic/subscriptions/name."

OPTIONS = (
    Option("max_concurrent_sessions", Kind.COUNT, "Sessions handled at once.", default=8),
    Option("session_ids", Kind.SESSION_IDS, "Handle only this session. Repeat the option for more sessions."),
    Option("max_messages_per_session", Kind.COUNT, "Messages after which a session is released."),
    Option("session_idle_timeout", Kind.SECONDS, "Seconds to wait in an empty session before its release.", default=0.0),
    Option("prefetch", Kind.COUNT, "Messages to receive in one request.", default=10, highest=1000),
    Option("max_renewal", Kind.SECONDS, "Seconds after which the renewal of a session lock stops."),
    Option(
        "until_empty",
        Kind.FLAG,
        "End when no session has a message. Sessions that others hold are not waited for.",
        default=False,
    ),
    Option(
        "settle_in_background",
        Kind.COUNT,
        "Handled messages of a session that may be unconfirmed while its next one is handled. After a crash they come again.",
        default=0,
        lowest=0,
        highest=1000,
    ),
    Option("grace_period", Kind.SECONDS, "Seconds to wait for running functions at the end.", default=30.0),
    Option("on_error", Kind.FUNCTION, "Called with each error, its session and its message (or None)."),
    Option("on_session_opened", Kind.FUNCTION, "Called with each session before its first message."),
    Option("on_session_closed", Kind.FUNCTION, "Called with each session after its release."),
)


#: The options that are arguments of `run_processor`.
METRICS_OPTIONS = (
    Option("metrics_port", Kind.PORT, "Serve metrics for Prometheus on this port; 0 takes a free one.", highest=65535),
    Option("metrics_host", Kind.ADDRESS, "Address of --metrics-port.", default="127.0.0.1"),
)


def add_arguments(parser: ArgumentParser, *, function: str) -> None:
    """Give an argparse parser all options. Functions stay texts, and `SessionProcessor` checks the bounds of numbers.

    Args:
        parser: The parser.
        function: The form in which a function is named, for the help text.
    """
    types: dict[Kind, dict[str, Any]] = {
        Kind.COUNT: {"type": int, "metavar": "COUNT"},
        Kind.SECONDS: {"type": float, "metavar": "SECONDS"},
        Kind.SESSION_IDS: {"action": "append", "metavar": "ID"},
        Kind.FUNCTION: {"metavar": function},
        Kind.FLAG: {"action": "store_true"},
        Kind.PORT: {"type": int, "metavar": "PORT"},
        Kind.ADDRESS: {"metavar": "ADDRESS"},
    }
    for option in OPTIONS + METRICS_OPTIONS:
        shown = option.help
        if option.default is not None and option.kind is not Kind.FLAG:
            default = option.default if isinstance(option.default, str) else f"{option.default:g}"
            shown = f"{option.help} Default: {default}."
        parser.add_argument(*option.flags, dest=option.name, default=option.default, help=shown, **types[option.kind])
