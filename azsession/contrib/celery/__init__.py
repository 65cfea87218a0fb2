"""azsession in Celery: a provider for each worker process, tasks that drain a session, what dispatches them, and the settling
of messages that another process received. Needs the extra ``celery``.

Say in the app's configuration where the messages are, ``app.conf.azsession = {...}``.
"""

from ..._extras import need

need("celery", "celery")

from .dispatching import Dispatcher  # noqa: E402
from .provider import close_provider, current_provider  # noqa: E402
from .settling import settle_on_success  # noqa: E402
from .tasks import session_task  # noqa: E402

__all__ = ["Dispatcher", "close_provider", "current_provider", "session_task", "settle_on_success"]
