"""Message sessions of Azure Service Bus, for code that runs in threads and processes.

Start with `ServiceBusProvider`. It sends messages and opens sessions, and `SessionProcessor` handles many sessions at once.
"""

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
from .queues import QueueInfo, QueueSettings

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
