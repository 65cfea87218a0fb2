"""The project's settings. azsession needs its application and `AZSESSION`."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

INSTALLED_APPS = ["azsession.contrib.django", "shop"]
AZSESSION = os.environ.get("SERVICEBUS_CONNECTION_STRING") or {"EMBEDDED": "memory"}

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "of an example, which has no sessions or cookies to sign")
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / "shop.sqlite3"),
        "OPTIONS": {"timeout": 30},
    }
}
