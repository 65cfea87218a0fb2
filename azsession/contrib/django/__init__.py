"""azsession in a Django project. Needs the extra ``django``.

Add ``"azsession.contrib.django"`` to ``INSTALLED_APPS``, and set ``AZSESSION`` to the place of the messages. `get_provider`
returns the provider of the process, `send_on_commit` sends messages when a transaction is committed, and the management
command ``azsession_consume`` calls a function for the messages of a queue.
"""

from .connections import closing_connections
from .provider import close_provider, get_provider
from .sending import send_on_commit

__all__ = ["close_provider", "closing_connections", "get_provider", "send_on_commit"]
