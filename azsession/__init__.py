"""Message sessions of Azure Service Bus, for code that runs in threads and processes.

Start with `ServiceBusProvider`. It sends messages and opens sessions, and `SessionProcessor` handles many sessions at once.
"""

from typing import TYPE_CHECKING

from . import forks
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
from .queues import QueueInfo, QueueSettings

if TYPE_CHECKING:
    from .processor import DeadLetter, DeadLetterSession, ProcessorStats, SessionProcessor

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

_IN_PROCESSOR = frozenset({"DeadLetter", "DeadLetterSession", "ProcessorStats", "SessionProcessor"})

if not TYPE_CHECKING:  # A type checker would accept any name.

    def __getattr__(name: str) -> object:
        # Loaded at first use, because not every program has a processor and `import azsession` should be fast.
        if name not in _IN_PROCESSOR:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with forks.import_lock:
            from . import processor
        value = globals()[name] = getattr(processor, name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_IN_PROCESSOR})
