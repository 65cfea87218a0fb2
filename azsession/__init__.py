"""Message sessions of Azure Service Bus, for code that runs in threads and processes.

Start with `ServiceBusProvider`. It sends messages and opens sessions, and `SessionProcessor` handles many sessions at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import forks

if TYPE_CHECKING:
    from .client.provider import ServiceBusProvider
    from .client.session import SessionClient
    from .config import ServiceBusConfig
    from .errors import (
        AuthenticationFailedError,
        ConfigurationError,
        ConnectionFailedError,
        InvalidReceiptError,
        MessageTooLargeError,
        NoSessionAvailableError,
        PermissionDeniedError,
        ProviderError,
        QueueError,
        QueueNotFoundError,
        SessionLockedError,
        SessionNotFoundError,
        ThrottledError,
        UnsupportedOperationError,
        ValidationError,
    )
    from .messages import Message, PeekedMessage, ReceiptHandle, ReceivedMessage, SessionInfo
    from .processor import DeadLetter, DeadLetterSession, ProcessorStats, SessionProcessor
    from .queues import QueueInfo, QueueSettings, QueueStatistics

__version__ = "0.1.0"

__all__ = [
    "AuthenticationFailedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DeadLetter",
    "DeadLetterSession",
    "InvalidReceiptError",
    "Message",
    "MessageTooLargeError",
    "NoSessionAvailableError",
    "PeekedMessage",
    "PermissionDeniedError",
    "ProcessorStats",
    "ProviderError",
    "QueueError",
    "QueueInfo",
    "QueueNotFoundError",
    "QueueSettings",
    "QueueStatistics",
    "ReceiptHandle",
    "ReceivedMessage",
    "ServiceBusConfig",
    "ServiceBusProvider",
    "SessionClient",
    "SessionInfo",
    "SessionLockedError",
    "SessionNotFoundError",
    "SessionProcessor",
    "ThrottledError",
    "UnsupportedOperationError",
    "ValidationError",
    "__version__",
]

#: The modules of the names above. The names that are missing here are in `errors`.
_MODULES = {
    "ServiceBusProvider": "client.provider",
    "SessionClient": "client.session",
    "ServiceBusConfig": "config",
    **dict.fromkeys(("Message", "PeekedMessage", "ReceiptHandle", "ReceivedMessage", "SessionInfo"), "messages"),
    **dict.fromkeys(("DeadLetter", "DeadLetterSession", "ProcessorStats", "SessionProcessor"), "processor"),
    **dict.fromkeys(("QueueInfo", "QueueSettings", "QueueStatistics"), "queues"),
}

if not TYPE_CHECKING:  # A type checker would accept any name.

    def __getattr__(name: str) -> object:
        # Each module is loaded at first use. The command `azsession` handles Ctrl-C before it loads them, and not every
        # program has a processor.
        if name not in __all__:
            with forks.import_lock:
                refuse = import_module(".azure_names", __name__).refuse_module_name
            refuse(name)
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with forks.import_lock:
            value = globals()[name] = getattr(import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
