"""The deployment files of the repository, and the command lines in them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from dockerfile_parse import DockerfileParser

from azsession.cli.group import cli

from ..support.paths import ROOT

EXAMPLES = ROOT / "examples" / "deployment"
DOCKERFILE = ROOT / "Dockerfile"
CONSUMER_DOCKERFILE = EXAMPLES / "consumer.Dockerfile"
COMPOSE = EXAMPLES / "compose.yaml"
MANIFESTS = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
UNITS = sorted(EXAMPLES.glob("*.service"))


def instructions(path: Path = DOCKERFILE) -> list[tuple[str, str]]:
    """Return the name and the value of each instruction of a Dockerfile."""
    # Otherwise the parser would write to the file.
    parser = DockerfileParser(fileobj=io.BytesIO(path.read_bytes()))
    return [(each["instruction"], each["value"]) for each in parser.structure if each["instruction"] != "COMMENT"]


def instruction(name: str, path: Path = DOCKERFILE) -> str:
    """Return the value of the last instruction of this name."""
    return [value for each, value in instructions(path) if each == name][-1]


def words(name: str, path: Path = DOCKERFILE) -> list[str]:
    """Return the words of an instruction in JSON form."""
    text = instruction(name, path)
    found: list[str] = json.loads(text[text.index("[") :])
    return found


def compose() -> dict[str, Any]:
    """Return the compose file."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return found


def objects(path: Path) -> list[dict[str, Any]]:
    """Return the Kubernetes objects of a file."""
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each is not None]


def object_of(path: Path, kind: str, name: str) -> dict[str, Any]:
    """Return the Kubernetes object of this kind and name."""
    [found] = [each for each in objects(path) if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pods(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the pod specification of each workload of a file."""
    for each in objects(path):
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def unit(path: Path) -> dict[str, list[str]]:
    """Return the values of each setting of a systemd unit."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def parsed(arguments: Sequence[str]) -> Mapping[str, Any]:
    """Return the options that a command line of azsession has, as the command itself reads them.

    Raises:
        click.UsageError: There is no such command or option, or a value is wrong.
    """
    sys.path.insert(0, str(EXAMPLES))
    try:
        name, command, rest = cli.resolve_command(click.Context(cli), list(arguments))
        assert command is not None
        with command.make_context(name, rest) as context:
            return dict(context.params)
    finally:
        sys.path.remove(str(EXAMPLES))
        sys.modules.pop("handlers", None)
