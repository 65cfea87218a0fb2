"""A broker inside the current process, on SQLite. `EmbeddedBroker` is the only public name."""

from .broker import EmbeddedBroker

__all__ = ["EmbeddedBroker"]
