"""The command `azsession backup`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Connect, client_options, show_json


@click.command(short_help="Write a backup of a running gateway into a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@client_options
def backup(file: Path, force: bool, connect: Connect, as_json: bool) -> None:
    """Write all queues and messages of a running gateway into FILE, while the gateway goes on serving.

    Needs a key with the right Manage. "azsession serve --data FILE" starts from the backup. FILE is complete and checked when
    it appears; before, nothing has its name.
    """
    try:
        with connect() as provider:
            size = provider.backup(file, overwrite=force)
    except FileExistsError:
        raise click.ClickException(f"{file} exists already; --force replaces it") from None
    if as_json:
        show_json({"file": str(file), "size": size})
    else:
        click.echo(f"wrote {file} ({size:,} bytes)")
