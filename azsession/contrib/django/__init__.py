"""azsession in a Django project: one setting, one provider for each process, messages that go with a transaction's commit,
and a management command that consumes a queue. Needs the extra ``django``.

Put ``"azsession.contrib.django"`` into ``INSTALLED_APPS``, and say in ``AZSESSION`` where the messages go.
"""

from .connections import closing_connections
from .provider import close_provider, get_provider
from .sending import send_on_commit

__all__ = ["close_provider", "closing_connections", "get_provider", "send_on_commit"]
