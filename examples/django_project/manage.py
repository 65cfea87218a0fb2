#!/usr/bin/env python
"""A shop whose orders go through message sessions, all of it in one process, with the embedded broker:

    python examples/django_project/manage.py demo

It needs azsession with the extras django and server. What happens to an order is kept in the database, and sent as a message
when the transaction is committed (`shop/views.py`); a handler does the rest, one message of an order after the other
(`shop/handlers.py`).

As it is in production, with a web server and a consumer that are processes of their own, and a gateway between them:

    azsession serve --queue orders                        # prints the connection string
    export SERVICEBUS_CONNECTION_STRING='Endpoint=...'    # in two more terminals
    python manage.py migrate && python manage.py runserver
    python manage.py azsession_consume orders shop.handlers.handle

    curl -d item=tea http://127.0.0.1:8000/place/
"""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
