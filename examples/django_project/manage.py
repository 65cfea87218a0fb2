#!/usr/bin/env python
"""A shop whose orders go through message sessions. This runs everything in one process, with the embedded broker:

    python examples/django_project/manage.py demo

It needs azsession with the extra django. A view stores an order in the database, and sends its steps as messages when the
transaction is committed (`shop/views.py`). A handler handles the messages of each order in order (`shop/handlers.py`).

In production, the web server and the consumer are separate processes, with a gateway between them:

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
