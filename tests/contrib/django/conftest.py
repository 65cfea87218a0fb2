"""Django in the test process, set up once for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azsession.testing import AzsessionServer


@pytest.fixture(scope="session")
def _django(tmp_path_factory: pytest.TempPathFactory) -> None:
    import django
    from django.conf import settings

    place = tmp_path_factory.mktemp("django")
    databases = {
        name: {"ENGINE": "django.db.backends.sqlite3", "NAME": str(place / f"{name}.sqlite3")}
        for name in ("default", "other")
    }
    # Without LOGGING_CONFIG=None, Django would configure the logging of the whole process.
    settings.configure(INSTALLED_APPS=["azsession.contrib.django"], DATABASES=databases, LOGGING_CONFIG=None)
    django.setup()


@pytest.fixture(autouse=True)
def _in_django(_django: None) -> Iterator[None]:
    from django.db import connections

    from azsession.contrib.django import close_provider

    yield
    close_provider()
    connections.close_all()


@pytest.fixture
def server(_in_django: None, azsession_server: AzsessionServer) -> Iterator[AzsessionServer]:
    """A gateway whose connection string is the setting."""
    from django.test import override_settings

    with override_settings(AZSESSION=azsession_server.connection_string):
        yield azsession_server
