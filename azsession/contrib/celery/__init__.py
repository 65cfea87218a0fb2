"""azsession in Celery. Needs the extra ``celery``. The setting ``app.conf.azsession`` says where the messages are.

`session_task` makes a task that drains a session. `Dispatcher` sends such tasks. `settle_on_success` settles a message that
another process received. `current_provider` returns the provider of the process.
"""

from ..._extras import need

need("celery", "celery")

from .dispatching import Dispatcher  # noqa: E402
from .provider import close_provider, current_provider  # noqa: E402
from .settling import settle_on_success  # noqa: E402
from .tasks import session_task  # noqa: E402

__all__ = ["Dispatcher", "close_provider", "current_provider", "session_task", "settle_on_success"]
