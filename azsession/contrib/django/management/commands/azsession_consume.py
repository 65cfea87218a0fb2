"""`manage.py azsession_consume`: a `SessionProcessor` with a function of the project's."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.module_loading import import_string

from azsession.contrib.django import closing_connections, get_provider
from azsession.errors import QueueError, ValidationError
from azsession.processor import SessionProcessor

#: Exit statuses, those of `azsession consume`.
FAILED, USED_WRONGLY = 1, 2

_HOOKS = {
    "on_error": "Called with an error, and with its session and message, or None.",
    "on_session_opened": "Called with a session before its first message.",
    "on_session_closed": "Called with a session after its release.",
}


class Command(BaseCommand):
    help = (
        "Calls a function with each message of a queue, and its session: many sessions at once, each in order. Where it "
        "returns, the message is completed. SIGTERM and Ctrl-C let it finish what it has in hand, and release all sessions; "
        "a second one gives up what still runs."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("queue", help="The queue, or topic/subscriptions/name.")
        parser.add_argument("handler", help="The function's dotted path, such as orders.handlers.paid.")
        parser.add_argument("--max-concurrent-sessions", type=int, default=8, help="Sessions handled at once (8).")
        parser.add_argument(
            "--session-id",
            "--session-ids",
            dest="session_ids",
            action="append",
            metavar="ID",
            help="Take this session only. Repeat it for more.",
        )
        parser.add_argument("--max-messages-per-session", type=int, help="Messages after which a session is released.")
        parser.add_argument(
            "--session-idle-timeout", type=float, default=0.0, help="Seconds to stay in a session that ran empty (0)."
        )
        parser.add_argument("--prefetch", type=int, default=10, help="Messages in one request (10).")
        parser.add_argument("--max-renewal", type=float, help="Seconds after which a session's lock is renewed no more.")
        parser.add_argument(
            "--grace-period", type=float, default=30.0, help="Seconds that handlers get to finish at the end (30)."
        )
        for name, told in _HOOKS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", metavar="DOTTED.PATH", help=told)

    def handle(self, *args: Any, **options: Any) -> None:
        """Consume until told to stop.

        Raises:
            CommandError: An argument is wrong (status 2); or it cannot go on, or handlers outlived the grace period (1).
        """
        queue, shown = options["queue"], options["verbosity"] > 0
        handler = _function(options["handler"], "the handler")
        settings: dict[str, Any] = {
            name: options[name]
            for name in (
                "max_concurrent_sessions",
                "session_ids",
                "max_messages_per_session",
                "session_idle_timeout",
                "prefetch",
                "max_renewal",
                "grace_period",
            )
        }
        hooks: dict[str, Any] = {name: _function(options[name], name) for name in _HOOKS if options[name] is not None}
        try:
            processor = SessionProcessor(get_provider(), queue, handler, **settings, **hooks)
        except ValidationError as error:
            raise CommandError(str(error), returncode=USED_WRONGLY) from error
        except QueueError as error:
            raise CommandError(str(error), returncode=FAILED) from error
        if shown:
            self.stderr.write(f"consuming {queue}; Ctrl-C ends it")
        try:
            processor.run()
        except QueueError as error:
            raise CommandError(str(error), returncode=FAILED) from error
        stats = processor.stats
        if shown:
            self.stdout.write(
                f"{queue}: {stats.messages_done} messages of {stats.sessions_done} sessions done, {stats.messages_failed} "
                f"failed, {stats.messages_dead_lettered} dead-lettered"
            )
        if stats.sessions_open:
            raise CommandError(f"given up while its handler ran: {stats.sessions_open} sessions", returncode=FAILED)


def _function(path: str, what: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = import_string(path.replace(":", "."))
    except ImportError as error:
        raise CommandError(f"{what} {path!r} cannot be imported: {error}", returncode=USED_WRONGLY) from error
    if not callable(found):
        raise CommandError(f"{what} {path!r} is a {type(found).__name__}, nothing to call", returncode=USED_WRONGLY)
    return closing_connections(found)
