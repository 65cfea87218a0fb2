"""A broker inside the current process, on SQLite, and the check of its data files."""

from .broker import EmbeddedBroker
from .database_file import check_data_file

__all__ = ["EmbeddedBroker", "check_data_file"]
