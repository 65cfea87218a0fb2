"""The commands `azsession key add`, `list` and `revoke`. They edit the key file of a gateway, which follows its changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..client.provider import ServiceBusProvider
from ..config import ENV_CONNECTION_STRING, ServiceBusConfig
from ..errors import AuthenticationFailedError, ConfigurationError, PermissionDeniedError, QueueError
from .common import QUEUE, CommandGroup, checked_options, note, show_json, show_table
from .data_folder import data_file, key_file_of

if TYPE_CHECKING:
    from ..server import AccessKey

#: Seconds to wait until a running gateway has noticed a change. It looks once a second.
PATIENCE = 5.0
#: Where `azsession serve` listens by default.
_DEFAULT_URL = "http://127.0.0.1:8720"


@click.group(cls=CommandGroup, short_help="Add, list and revoke the access keys of a gateway.")
def key() -> None:
    """Add, list and revoke the access keys of a gateway.

    The keys are in the gateway's key file, which "azsession serve" names when it starts. These commands run on a machine that
    has this file. A running gateway notices a change within about a second. A gateway that was started with --key has no key
    file.
    """


def _file_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which key file."""
    command = click.option(
        "--key-file", type=click.Path(dir_okay=False, path_type=Path), help="The key file, as given to azsession serve."
    )(command)
    command = click.option(
        "--data",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The data file, as given to azsession serve; the key file is beside it. Default: the default data file.",
    )(command)
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(command)


def _url_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--url",
        metavar="URL",
        help="The gateway, for the connection string and to check that it has noticed. Default: that of "
        f"{ENV_CONNECTION_STRING}.",
    )(command)


@key.command()
@click.argument("name")
@click.option(
    "--rights",
    required=True,
    metavar="RIGHTS",
    help="Comma-separated list of Send, Listen, Manage and Metrics. Manage includes the others.",
)
@click.option(
    "--queue", "queues", type=QUEUE, multiple=True, metavar="NAME", help="Limit the rights to this queue. Repeat it for more."
)
@click.option("--create", is_flag=True, help="Create the key file if it does not exist.")
@_url_option
@_file_options
def add(
    name: str,
    rights: str,
    queues: tuple[str, ...],
    create: bool,
    url: str | None,
    key_file: Path | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Add a key with a new secret, and print its connection string, which is shown only this once."""
    from .keyfile import edit_keys, write_keys

    new = _new_key(name, rights, queues)
    endpoint, is_known = _endpoint(url)
    path = _key_file(key_file, data)

    def with_new(keys: list[AccessKey]) -> list[AccessKey]:
        if any(each.name == name for each in keys):
            raise click.ClickException(f"{path} has a key {name!r} already; revoke it first, or choose another name")
        return [*keys, new]

    try:
        edit_keys(path, with_new)
    except FileNotFoundError:
        if not create:
            raise _missing(path, "; --create creates it") from None
        write_keys(path, [new])
    string = f"Endpoint={endpoint}/;SharedAccessKeyName={new.name};SharedAccessKey={new.key}"
    if as_json:
        show_json({**_key_json(new), "key_file": str(path), "connection_string": string})
    else:
        click.echo(string)
    if is_known:
        _note_doubt(string, endpoint, path, is_accepted=True)
    else:
        note(f"put the URL of the gateway in the place of {endpoint}, or give --url")


@key.command(name="list")
@_file_options
def list_keys(key_file: Path | None, data: Path | None, as_json: bool) -> None:
    """List the names, rights and queues of the keys, but no secrets."""
    from .keyfile import read_keys

    path = _key_file(key_file, data)
    try:
        keys = read_keys(path, for_editing=True)
    except FileNotFoundError:
        raise _missing(path) from None
    if as_json:
        for each in keys:
            show_json(_key_json(each))
    else:
        rows = [(each.name, ", ".join(_rights(each)), ", ".join(sorted(each.queues or ())) or "all") for each in keys]
        show_table(("key", "rights", "queues"), rows)


@key.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Revoke the last key that can manage all queues, too.")
@_url_option
@_file_options
def revoke(name: str, force: bool, url: str | None, key_file: Path | None, data: Path | None, as_json: bool) -> None:
    """Remove a key. A running gateway refuses it from then on, and ends the receives that wait with it."""
    from .keyfile import edit_keys

    path = _key_file(key_file, data)
    revoked: list[AccessKey] = []

    def without(keys: list[AccessKey]) -> list[AccessKey]:
        revoked[:] = [each for each in keys if each.name == name]
        left = [each for each in keys if each.name != name]
        if not revoked:
            raise click.ClickException(f"{path} has no key {name!r}; azsession key list shows the keys")
        if not left:
            raise click.ClickException(f"{name!r} is the only key in {path}, and a gateway needs one: add another one first")
        if not force and any(map(_manages_all, revoked)) and not any(map(_manages_all, left)):
            raise click.ClickException(f"{name!r} is the last key in {path} that can manage all queues; --force revokes it")
        return left

    try:
        edit_keys(path, without)
    except FileNotFoundError:
        raise _missing(path) from None
    endpoint, is_known = _endpoint(url)
    if as_json:
        show_json({"name": name, "revoked": True})
    else:
        click.echo(f"revoked {name}")
    string = f"Endpoint={endpoint}/;SharedAccessKeyName={name};SharedAccessKey={revoked[0].key}"
    if is_known:
        _note_doubt(string, endpoint, path, is_accepted=False)


def _new_key(name: str, rights: str, queues: tuple[str, ...]) -> AccessKey:
    from ..server import AccessKey, Right

    found = {right.value.lower(): right for right in Right}
    names = [part.strip() for part in rights.split(",")]
    for each in names:
        if each.lower() not in found:
            known = ", ".join(right.value for right in Right)
            raise click.BadParameter(f"{each!r} is no right; the rights are {known}", param_hint="'--rights'")
    with checked_options():
        new = AccessKey.generate(name, frozenset(found[each.lower()] for each in names), queues=frozenset(queues) or None)
        # A name with a colon makes a text that can be read, but as another key.
        with suppress(ConfigurationError):
            if AccessKey.parse(new.to_text()) == new:
                return new
        raise ConfigurationError(f"the name of a key has 1 to 64 letters, digits, '.', '_' or '-', unlike {name!r}")


def _key_file(key_file: Path | None, data: Path | None) -> Path:
    if key_file is not None and data is not None:
        raise click.UsageError("give --data or --key-file, not both")
    return key_file if key_file is not None else key_file_of(data_file(data))


def _missing(path: Path, more: str = "") -> click.ClickException:
    return click.ClickException(
        f"there is no key file {path}: azsession serve creates it, and names it when it starts; --key-file or --data chooses "
        f"another one{more}"
    )


def _rights(each: AccessKey) -> list[str]:
    from ..server import Right

    return [right.value for right in Right if right in each.rights]


def _key_json(each: AccessKey) -> dict[str, Any]:
    return {"name": each.name, "rights": _rights(each), "queues": None if each.queues is None else sorted(each.queues)}


def _manages_all(each: AccessKey) -> bool:
    from ..server import Right

    return each.queues is None and Right.MANAGE in each.rights


def _endpoint(url: str | None) -> tuple[str, bool]:
    """Return the URL of the gateway, and whether it is known. If it is not, it is the default of `azsession serve`."""
    if url is not None:
        with checked_options():
            return ServiceBusConfig(gateway_url=url, allow_insecure_http=True).namespace_url.rstrip("/"), True
    given = os.environ.get(ENV_CONNECTION_STRING)
    if not given:
        return _DEFAULT_URL, False
    config = ServiceBusConfig(connection_string=given, allow_insecure_http=True)
    if config.uses_amqp:
        return _DEFAULT_URL, False
    return config.namespace_url.rstrip("/"), True


def _note_doubt(connection_string: str, endpoint: str, path: Path, *, is_accepted: bool) -> None:
    """Wait until a gateway accepts a key, or refuses it. Say so if it does not."""
    doubt = _doubt(connection_string, endpoint, path, is_accepted=is_accepted)
    if doubt is not None:
        note(doubt)


def _doubt(connection_string: str, endpoint: str, path: Path, *, is_accepted: bool) -> str | None:
    try:
        config = ServiceBusConfig(connection_string=connection_string, retry_attempts=0)
    except ConfigurationError:
        return f"{endpoint} was not asked whether it has noticed: plain HTTP would show a token to others"
    until = time.monotonic() + PATIENCE
    while (found := _is_accepted(config)) is not is_accepted:
        if found is None:
            return f"the gateway at {endpoint} was not asked whether it has noticed, because it does not answer"
        if time.monotonic() > until:
            verb = "does not accept" if is_accepted else "still accepts"
            return f"the gateway at {endpoint} {verb} the key: it was started with --key, or has another key file than {path}"
        time.sleep(0.2)
    return None


def _is_accepted(config: ServiceBusConfig) -> bool | None:
    """Return whether a gateway accepts a key; `None` if it does not answer."""
    with ServiceBusProvider(config) as provider:
        try:
            provider.list_queues()
        except AuthenticationFailedError:
            return False
        except PermissionDeniedError:
            return True
        except QueueError:
            return None
    return True
