"""The embedded broker: SQLite in this process. `EmbeddedBroker` is its one public name."""

from .broker import EmbeddedBroker

__all__ = ["EmbeddedBroker"]
