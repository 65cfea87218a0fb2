"""Reads azsession's settings from a framework's configuration and makes a provider from them.

The Celery, Django and Flask integrations call `read`. Each passes a `Style`: how that framework names the settings.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import attrs

from .._extras import need
from ..client.provider import ServiceBusProvider
from ..config import ENV_CONNECTION_STRING, ENV_GATEWAY_URL, ENV_NAMESPACE, ServiceBusConfig
from ..errors import ConfigurationError
from ..tokens import source_of
from .imports import import_object

#: The value of ``embedded`` for a broker that keeps nothing on disk.
MEMORY = "memory"
#: The names of all settings, in lower case: the fields of `ServiceBusConfig`, and two more.
FIELDS = tuple(field.name for field in attrs.fields(ServiceBusConfig) if field.init)
NAMES = (*FIELDS, "credential", "embedded")
#: The settings that say where the messages are, besides ``embedded``.
PLACES = ("connection_string", "namespace", "gateway_url")

_TEXTS = (*PLACES, "transport")
_PATHS = ("ca_bundle", "embedded")
_PLACE_VARIABLES = (ENV_CONNECTION_STRING, ENV_NAMESPACE, ENV_GATEWAY_URL)
#: A valid place that stands in while other fields are checked.
_ANY_PLACE = {"namespace": "any"}


class ProblemCode(Enum):
    """The kinds of problems. Django's system checks use the values in their ids: errors begin with E, warnings with W."""

    NOT_A_DICT = "E001"
    UNKNOWN_KEY = "E002"
    WRONG_VALUE = "E003"
    WRONG_CREDENTIAL = "E004"
    EMBEDDED_NOT_ALONE = "E005"
    MISSING_EXTRA = "E006"
    #: Not a mistake where no messages are sent, for example while an image is built or the database is migrated.
    NO_PLACE = "W001"


@attrs.frozen
class Problem:
    """One mistake in the settings. Its texts hold no value that could be a secret.

    Attributes:
        code: The kind of mistake.
        text: The mistake, without a full stop.
        hint: How to correct it, with a full stop, where `text` does not say so.
    """

    code: ProblemCode
    text: str
    hint: str | None = None

    def __str__(self) -> str:
        return self.text if self.hint is None else f"{self.text}. {self.hint}"


@attrs.frozen
class Style:
    """How a framework names the settings, and the rules in which frameworks differ.

    Attributes:
        container: The object that holds the settings, as users write it, for example ``app.config``.
        prefix: The text that each key begins with.
        upper: Keys are in capitals.
        is_embedded_alone: Other settings beside ``embedded`` are a mistake. Otherwise ``embedded`` wins.
        imports_credential: ``credential`` may be the dotted path of a credential.
        ignores_empty_paths: An empty path counts as left out. Otherwise it is a mistake.
    """

    container: str
    prefix: str = ""
    upper: bool = False
    is_embedded_alone: bool = True
    imports_credential: bool = True
    ignores_empty_paths: bool = True

    def key(self, name: str) -> str:
        """Return the framework's key for a setting, for example ``AZSESSION_RETRY_ATTEMPTS`` for ``retry_attempts``."""
        return self.prefix + (name.upper() if self.upper else name)

    @property
    def keys(self) -> dict[str, str]:
        """All keys, with the names of their settings."""
        return {self.key(name): name for name in NAMES}

    def item(self, name: str) -> str:
        """Return the setting as error messages name it, for example ``app.config['AZSESSION_EMBEDDED']``."""
        return f"{self.container}[{self.key(name)!r}]"


@attrs.frozen
class ProviderSetting:
    """The settings of a provider, after the checks that need neither the environment nor a connection.

    Attributes:
        style: How the framework names the settings.
        problems: The mistakes. If there are any, the other attributes are incomplete.
        fields: Fields of `ServiceBusConfig`. If none of them is a place, the environment names the place.
        credential: A `TokenCredential`, or a function or class that returns one.
        embedded: Where the embedded broker keeps its messages: `MEMORY`, or a file. `None` means another server.
    """

    style: Style
    problems: tuple[Problem, ...] = ()
    fields: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    credential: Any = attrs.field(default=None, repr=False)
    embedded: str | Path | None = None

    def check(self) -> None:
        """Raise the problems that show without the environment. A missing place becomes a problem when a provider is made.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        _raise(tuple(problem for problem in self.problems if problem.code is not ProblemCode.NO_PLACE))

    def all_problems(self) -> tuple[Problem, ...]:
        """Return all problems, those of the environment and of missing extras too. Makes no connection and no credential."""
        if self.problems:
            return self.problems
        if self.embedded is not None:
            return ()
        try:
            config = self._config()
            if self.credential is None and config.credentials is not None:
                source_of(config, None)
        except ConfigurationError as error:
            return (self._place_problem(error),)
        if not config.uses_amqp:
            return ()
        return self._missing_extra("websocket", "websockets") if config.uses_websockets else ()

    def make_provider(self) -> ServiceBusProvider:
        """Return a new provider. Makes no connection.

        Raises:
            ConfigurationError: A setting is wrong, nothing names a place, or the file of an embedded broker cannot be opened.
        """
        _raise(self.all_problems())
        if self.embedded is not None:
            return ServiceBusProvider.embedded(None if self.embedded == MEMORY else self.embedded)
        credential = self.credential
        if credential is not None and (isinstance(credential, type) or not hasattr(credential, "get_token")):
            credential = credential()
        return ServiceBusProvider(self._config(), credential=credential)

    def _config(self) -> ServiceBusConfig:
        if any(name in self.fields for name in PLACES):
            return ServiceBusConfig(**self.fields)
        return ServiceBusConfig.from_env(**self.fields)

    def _place_problem(self, error: ConfigurationError) -> Problem:
        style = self.style
        named = any(name in self.fields for name in PLACES) or any(os.environ.get(name) for name in _PLACE_VARIABLES)
        if named:
            return Problem(ProblemCode.WRONG_VALUE, f"{style.container}: {error}")
        keys = ", ".join(style.key(name) for name in (*PLACES, "embedded"))
        return Problem(
            ProblemCode.NO_PLACE,
            f"{style.container} does not say where the messages are",
            f"Set one of {keys}, or set {ENV_CONNECTION_STRING} in the environment.",
        )

    def _missing_extra(self, module: str, extra: str) -> tuple[Problem, ...]:
        try:
            need(module, extra)
        except ConfigurationError as error:
            return (Problem(ProblemCode.MISSING_EXTRA, f"{self.style.container}: {error}"),)
        return ()


def _raise(problems: tuple[Problem, ...]) -> None:
    if problems:
        raise ConfigurationError("; ".join(map(str, problems)))


def read(value: object, style: Style) -> ProviderSetting:
    """Return the checked settings. Looks at neither the environment nor the network.

    Args:
        value: A mapping of the framework's keys to values, a connection string, or `None`. A value of `None` counts as left
            out.
        style: How the framework names the settings.
    """
    if isinstance(value, str):
        value = {style.key("connection_string"): value}
    elif value is None:
        value = {}
    if not isinstance(value, Mapping):
        text = f"{style.container} must be a dict or a connection string, not {type(value).__name__}"
        return ProviderSetting(style, (Problem(ProblemCode.NOT_A_DICT, text),))
    keys = style.keys
    problems = [_unknown_key(str(key), style) for key in value if key not in keys]
    given = {name: value[key] for key, name in keys.items() if value.get(key) is not None}
    if style.ignores_empty_paths:
        given = {name: each for name, each in given.items() if not (name in _PATHS and each == "")}
    for name, each in given.items():
        problems += _check_value(name, each, style)
    if style.is_embedded_alone and "embedded" in given and len(given) > 1:
        others = ", ".join(style.key(name) for name in given if name != "embedded")
        text = f"{style.item('embedded')} is set, so {others} would have no effect"
        problems.append(Problem(ProblemCode.EMBEDDED_NOT_ALONE, text, "Remove one or the other."))
    credential = given.pop("credential", None)
    if isinstance(credential, str) and style.imports_credential:
        try:
            credential = import_object(credential)
        except ImportError as error:
            problems.append(Problem(ProblemCode.WRONG_CREDENTIAL, f"{style.item('credential')}: {error}"))
            credential = None
    problems += _check_credential(credential, style)
    embedded = given.pop("embedded", None)
    if isinstance(given.get("ca_bundle"), os.PathLike):
        given["ca_bundle"] = os.fspath(given["ca_bundle"])
    if not problems:
        problems += _check_together(given, style)
    if embedded is not None and not isinstance(embedded, str) and not problems:
        embedded = Path(embedded)
    return ProviderSetting(style, tuple(problems), given, credential, embedded)


def _unknown_key(key: str, style: Style) -> Problem:
    # The prefix is the same in all keys, so it says nothing about which key is meant.
    known = {each.removeprefix(style.prefix): each for each in style.keys}
    start = key.removeprefix(style.prefix)
    near = difflib.get_close_matches(start.upper() if style.upper else start.lower(), known, 1)
    hint = f"Did you mean {known[near[0]]!r}?" if near else f"The keys are {', '.join(style.keys)}."
    return Problem(ProblemCode.UNKNOWN_KEY, f"{style.container}[{key!r}] is not a setting of azsession", hint)


def _check_value(name: str, value: object, style: Style) -> list[Problem]:
    if name == "credential":
        return []
    right, is_right = "a str", isinstance(value, str)
    if name in _PATHS:
        right = f"{MEMORY!r} or the path of a file" if name == "embedded" else "the path of a file or folder"
        is_right = isinstance(value, (str, os.PathLike))
    elif name == "allow_insecure_http":
        right, is_right = "True or False", isinstance(value, bool)
    elif name not in _TEXTS:
        return _check_field(name, value, style)
    if not is_right:
        return [Problem(ProblemCode.WRONG_VALUE, f"{style.item(name)} must be {right}, not {type(value).__name__}")]
    if value == "" and name in PLACES:
        # Often the value of an environment variable that is not set here.
        hint = "Set it where messages are sent or consumed, or remove it."
        return [Problem(ProblemCode.NO_PLACE, f"{style.item(name)} is empty", hint)]
    if value == "":
        return [Problem(ProblemCode.WRONG_VALUE, f"{style.item(name)} is empty", "Remove it, or use None for the default.")]
    return []


def _check_field(name: str, value: object, style: Style) -> list[Problem]:
    fields: dict[str, Any] = {**_ANY_PLACE, name: value}
    try:
        ServiceBusConfig(**fields)
    except ConfigurationError as error:
        return [Problem(ProblemCode.WRONG_VALUE, f"{style.item(name)}: {error}")]
    return []


def _check_credential(value: object, style: Style) -> list[Problem]:
    if value is None or callable(value) or callable(getattr(value, "get_token", None)):
        return []
    path = ", or the dotted path of either" if style.imports_credential else ""
    text = (
        f"{style.item('credential')} must be a TokenCredential, or a function or class that returns one{path}, "
        f"not {type(value).__name__}: it has no get_token"
    )
    return [Problem(ProblemCode.WRONG_CREDENTIAL, text, "For example, use azure.identity's DefaultAzureCredential.")]


def _check_together(fields: Mapping[str, Any], style: Style) -> list[Problem]:
    """Check the fields with each other, with a place that stands in where they name none."""
    place: dict[str, Any] = {} if any(name in fields for name in PLACES) else _ANY_PLACE
    try:
        ServiceBusConfig(**place, **fields)
    except ConfigurationError as error:
        return [Problem(ProblemCode.WRONG_VALUE, f"{style.container}: {error}")]
    return []
