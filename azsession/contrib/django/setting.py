"""The setting ``AZSESSION``: read, checked, and turned into a provider. Used by `get_provider` and the system checks."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from django.utils.module_loading import import_string

from ..._extras import need
from ...client.provider import ServiceBusProvider
from ...config import ENV_CONNECTION_STRING, ENV_GATEWAY_URL, ENV_NAMESPACE, ServiceBusConfig
from ...errors import ConfigurationError
from ...tokens import source_of
from ..process_provider import MEMORY, embedded_provider, provider_with

#: The setting's name.
NAME = "AZSESSION"

_FIELDS = {field.name.upper(): field.name for field in attrs.fields(ServiceBusConfig) if field.init}
_KEYS = (*_FIELDS, "CREDENTIAL", "EMBEDDED")
_PLACES = ("CONNECTION_STRING", "NAMESPACE", "GATEWAY_URL")
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys((*_PLACES, "TRANSPORT"), ((str,), "a str")),
    **dict.fromkeys(("CA_BUNDLE", "EMBEDDED"), ((str, Path), "a str or a Path")),
    "ALLOW_INSECURE_HTTP": ((bool,), "True or False"),
}
#: Stands for a place while a field is checked by itself.
_ANYWHERE = "http://127.0.0.1"


@attrs.frozen
class Problem:
    """Something that is wrong with the setting. Its text holds no value that could be secret.

    Attributes:
        code: Which kind: ``E001`` and on.
        text: What is wrong.
        hint: What would be right.
    """

    code: str
    text: str
    hint: str | None = None


@attrs.frozen
class Setting:
    """What the setting says: where to, or what is wrong with it.

    Attributes:
        problems: What is wrong; the other fields say nothing then.
        config: How to reach the server, unless there is an embedded broker.
        credential: What CREDENTIAL names: a credential, or what makes one.
        embedded: EMBEDDED.
    """

    problems: tuple[Problem, ...] = ()
    config: ServiceBusConfig | None = None
    credential: Any = attrs.field(default=None, repr=False)
    embedded: str | Path | None = None

    def provider(self) -> ServiceBusProvider:
        """Return a new provider.

        Raises:
            ConfigurationError: The setting is wrong.
        """
        if self.problems:
            raise ConfigurationError(" ".join(f"{problem.text}." for problem in self.problems))
        if self.config is None:
            return embedded_provider(self.embedded or MEMORY)
        return provider_with(self.config, self.credential)


def read(value: object) -> Setting:
    """Return what a value of the setting says; it makes no connection, and no credential."""
    if isinstance(value, str):
        value = {"CONNECTION_STRING": value}
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        return Setting((Problem("E001", f"{NAME} is a dict or a connection string, not {type(value).__name__}"),))
    problems = [_unknown(key) for key in value if key not in _KEYS]
    given = {key: value[key] for key in _KEYS if value.get(key) is not None}
    for key, each in given.items():
        problems += _check_value(key, each)
    if "EMBEDDED" in given:
        problems += _check_embedded(given)
        return Setting(tuple(problems), embedded=given["EMBEDDED"])
    credential, wrong = _find_credential(given.pop("CREDENTIAL", None))
    problems += wrong
    if problems:
        return Setting(tuple(problems))
    fields = {_FIELDS[key]: str(each) if isinstance(each, Path) else each for key, each in given.items()}
    return _connect(fields, credential)


def _unknown(key: object) -> Problem:
    near = difflib.get_close_matches(str(key).upper(), _KEYS, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(_KEYS)}."
    return Problem("E002", f"{NAME} has no key {str(key)!r}", hint)


def _check_value(key: str, value: Any) -> list[Problem]:
    if key in _TYPES:
        types, told = _TYPES[key]
        if not isinstance(value, types):
            return [Problem("E003", f"{NAME}[{key!r}] is {told}, not {type(value).__name__}")]
        if value == "":
            return [Problem("E003", f"{NAME}[{key!r}] is empty", "Leave it out, or give None, for what it is by default.")]
        return []
    if key in _FIELDS:
        try:
            ServiceBusConfig(gateway_url=_ANYWHERE, **{_FIELDS[key]: value})
        except ConfigurationError as error:
            return [Problem("E003", f"{NAME}[{key!r}]: {error}")]
    return []


def _check_embedded(given: Mapping[str, Any]) -> list[Problem]:
    problems = []
    others = [key for key in given if key != "EMBEDDED"]
    if others:
        problems.append(
            Problem(
                "E006", f"{NAME} has EMBEDDED, so that {', '.join(others)} would do nothing", "Leave out one or the other."
            )
        )
    try:
        need("falcon", "server")
    except ConfigurationError as error:
        problems.append(Problem("E007", f"{NAME}: {error}"))
    return problems


def _find_credential(named: object) -> tuple[Any, list[Problem]]:
    """Return the credential, or what makes one, and what is wrong with it."""
    found: Any = named
    if isinstance(named, str):
        try:
            found = import_string(named)
        except ImportError as error:
            return None, [Problem("E005", f"{NAME}['CREDENTIAL'] cannot be imported: {error}")]
    if found is None or hasattr(found, "get_token") or callable(found):
        return found, []
    told = "is a TokenCredential, what makes one, or the dotted path of either: it has no get_token"
    return None, [Problem("E005", f"{NAME}['CREDENTIAL'] {told}", "azure.identity has such credentials.")]


def _connect(fields: dict[str, Any], credential: Any) -> Setting:
    try:
        if not any(name.lower() in fields for name in _PLACES):
            if not any(os.environ.get(name) for name in (ENV_CONNECTION_STRING, ENV_NAMESPACE, ENV_GATEWAY_URL)):
                return Setting((_NOWHERE,))
            config = ServiceBusConfig.from_env(**fields)
        else:
            config = ServiceBusConfig(**fields)
        if credential is None and config.credentials is not None:
            source_of(config, None)
    except ConfigurationError as error:
        return Setting((Problem("E003", f"{NAME}: {error}"),))
    if config.uses_amqp:
        try:
            need("falcon", "server")
            if config.uses_websockets:
                need("websocket", "websockets")
        except ConfigurationError as error:
            return Setting((Problem("E007", f"{NAME}: {error}"),))
    return Setting(config=config, credential=credential)


_NOWHERE = Problem(
    "E004",
    f"{NAME} does not say where the messages go",
    f"Give CONNECTION_STRING, NAMESPACE, GATEWAY_URL or EMBEDDED, or set {ENV_CONNECTION_STRING} in the environment.",
)
