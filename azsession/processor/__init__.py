"""`SessionProcessor`: many sessions at once, a handler called in order in each."""

from .outcomes import DeadLetter, DeadLetterSession, ProcessorStats
from .processor import SessionProcessor

__all__ = ["DeadLetter", "DeadLetterSession", "ProcessorStats", "SessionProcessor"]
