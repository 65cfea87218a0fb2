"""Django in the tests' own process: set up once, with nothing that other tests would see."""

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
    # Without Django's logging, which would take hold of the process's.
    settings.configure(INSTALLED_APPS=["azsession.contrib.django"], DATABASES=databases, LOGGING_CONFIG=None)
    django.setup()


@pytest.fixture(autouse=True)
def _in_django(_django: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from django.db import connections

    from azsession.contrib.django import close_provider

    for name in ("SERVICEBUS_CONNECTION_STRING", "SERVICEBUS_FULLY_QUALIFIED_NAMESPACE", "AZSESSION_GATEWAY_URL"):
        monkeypatch.delenv(name, raising=False)
    yield
    close_provider()
    connections.close_all()


@pytest.fixture
def server(_in_django: None, azsession_server: AzsessionServer) -> Iterator[AzsessionServer]:
    """A gateway, to which the setting leads."""
    from django.test import override_settings

    with override_settings(AZSESSION=azsession_server.connection_string):
        yield azsession_server
