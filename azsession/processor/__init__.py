"""`SessionProcessor`: handles many sessions at once and calls a handler for each message, in order within a session."""

from .outcomes import DeadLetter, DeadLetterSession, ProcessorStats
from .processor import SessionProcessor

__all__ = ["DeadLetter", "DeadLetterSession", "ProcessorStats", "SessionProcessor"]
