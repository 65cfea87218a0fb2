"""The steps of the Dockerfile, run without Docker: the image's command, its health check, and the consumer of the manifests.

The steps install from the package index that pip is configured for. As root, the processes run as the image's user.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import requests

from azsession import Message, NoSessionAvailableError, ServiceBusProvider

from ..support.paths import ROOT
from ..support.processes import PATIENCE, environment
from .files import EXAMPLES, MANIFESTS, instruction, instructions, pods, words

KEY = "c2VjcmV0LW9mLXRoZS10ZXN0cw"


def context(target: Path) -> None:
    """Copy what .dockerignore leaves of the repository, as Docker sends it to the build."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    wanted = [line[1:] for line in lines if line.startswith("!")]
    ignored = shutil.ignore_patterns(*(line.removeprefix("**/") for line in lines if line.startswith("**/")))
    for name in wanted:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, target / name)
    assert not any(fnmatch.fnmatch(path.name, "*.pyc") for path in target.rglob("*"))


@attrs.frozen
class Image:
    """What a build of the Dockerfile would make.

    Attributes:
        root: A folder that the image's user can read. It has what the image has in /opt, and a folder for /data.
        user: The user of its processes: the image's, or that of the tests if they do not run as root.
    """

    root: Path
    user: int

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of a process."""
        path = f"{self.root}/opt/azsession/bin{os.pathsep}{os.environ['PATH']}"
        return environment(PATH=path, PYTHONUNBUFFERED="1", HOME=str(self.root), **more)

    def start(self, arguments: list[str], cwd: Path, **more: str) -> subprocess.Popen[str]:
        """Start a process with the image's entry point. The caller ends it."""
        [command] = words("ENTRYPOINT")
        return subprocess.Popen(
            [self.root / "opt/azsession/bin" / command, *arguments],
            cwd=cwd,
            env=self.environ(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=self.user if os.geteuid() == 0 else None,
            group=self.user if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
        )

    def is_healthy(self, url: str) -> bool:
        """Run the health check."""
        ran = subprocess.run(
            words("HEALTHCHECK"),
            env=self.environ(AZSESSION_PROBE_URL=url),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        return ran.returncode == 0


def build_command(root: Path) -> str:
    """Return the command of the build stage, with folders in `root`."""
    command = next(value for name, value in instructions() if name == "RUN")
    for place in ("/src", "/wheels", "/opt/azsession"):
        command = re.sub(rf"(?<=[ ]){place}\b", f"{root}{place}", command)
    python = python_for_all()
    command = command.replace("python -m", f"{python} -m").replace("pip wheel", f"{sys.executable} -m pip wheel")
    # The image does not need pip's cache, and this build does.
    command = command.replace("--no-cache-dir ", "")
    extras = next(value for name, value in instructions() if name == "ARG" and value.startswith("EXTRAS="))
    return f"{extras}; {command}"


def python_for_all() -> str:
    """Return a Python that another user can run: the system's if that of the tests is in a closed folder."""
    place = Path(sys.base_prefix).resolve()
    is_open = all(folder.stat().st_mode & 0o001 for folder in (place, *place.parents))
    return str(Path(sys.base_prefix) / "bin" / "python3") if is_open else "/usr/bin/python3"


@pytest.fixture
def image() -> Iterator[Image]:
    """The result of the build stage, made by its own RUN instruction in a temporary folder."""
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="azsession-image-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        for name in ("src", "data", "app"):
            (root / name).mkdir()
        context(root / "src")
        built = subprocess.run(
            ["bash", "-euc", build_command(root)], capture_output=True, text=True, timeout=250, check=False
        )
        assert built.returncode == 0, built.stdout + built.stderr
        shutil.copy(EXAMPLES / "handlers.py", root / "app")
        user = int(instruction("USER").split(":")[0]) if os.geteuid() == 0 else os.geteuid()
        os.chown(root / "data", user, user if os.geteuid() == 0 else -1)
        (root / "data").chmod(0o700)
        yield Image(root, user)


class Gateway:
    """The image's own command on a free port, until the end of the ``with`` block."""

    def __init__(self, image: Image) -> None:
        arguments = [word.replace("/data", f"{image.root}/data") for word in words("CMD")]
        keys = f"app:{KEY}:Send,Listen,Manage"
        self.process = image.start([*arguments, "--port", "0", "--queue", "orders"], image.root / "data", AZSESSION_KEYS=keys)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Endpoint="), self.process.communicate(timeout=PATIENCE)
        self.port = int(re.search(r":(\d+)/", line)[1])  # type: ignore[index]
        self.connection_string = f"Endpoint=http://127.0.0.1:{self.port}/;SharedAccessKeyName=app;SharedAccessKey={KEY}"
        self.output = line

    def end(self) -> float:
        """Send the image's stop signal and wait for the end. Return the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.Signals[instruction("STOPSIGNAL")])
        out, err = self.process.communicate(timeout=PATIENCE)
        self.output += out + err
        assert self.process.returncode == 0, self.output
        return time.monotonic() - began

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def uid(process: subprocess.Popen[str]) -> int:
    return os.stat(f"/proc/{process.pid}").st_uid


def check_that_it_serves_as_its_user_and_shows_no_key(image: Image) -> None:
    with Gateway(image) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/readyz"
        assert uid(gateway.process) == image.user
        assert image.is_healthy(url)
        assert requests.get(url, timeout=10).status_code == 200
        with ServiceBusProvider.from_connection_string(gateway.connection_string) as provider:
            provider.send_message("orders", Message("paid", session_id="order-1"))
        gateway.end()
        assert not image.is_healthy(url)
        assert KEY not in gateway.output
    # A new container with the same volume has the messages.
    with Gateway(image) as gateway, ServiceBusProvider.from_connection_string(gateway.connection_string) as provider:
        assert provider.purge("orders") == 1
    names = {path.name: path.stat() for path in (image.root / "data").iterdir()}
    assert "azsession.db" in names
    assert {found.st_uid for found in names.values()} == {image.user}


def check_that_a_stop_answers_waiting_receives_within_the_ten_seconds_of_docker(image: Image) -> None:
    with Gateway(image) as gateway, ServiceBusProvider.from_connection_string(gateway.connection_string) as provider:
        provider.send_message("orders", Message("paid", session_id="order-1"))
        session = provider.create_session_client("orders", "order-1")
        message = session.receive_message()
        assert message is not None
        answers: list[object] = []
        waiting = threading.Thread(target=lambda: answers.append(_accepted(provider)))
        waiting.start()
        session.complete_message(message)
        assert gateway.end() < 10
        session.detach()
        provider.close()
        waiting.join(PATIENCE)
        assert len(answers) == 1


def _accepted(provider: ServiceBusProvider) -> object:
    try:
        return provider.create_session_client("orders", accept_timeout=30)
    except Exception as error:
        return error


def check_that_the_consumer_of_the_manifests_answers_probes_and_releases_its_sessions_at_sigterm(image: Image) -> None:
    [consumer] = [path for path in MANIFESTS if path.name == "consumer.yaml"]
    [(_, pod)] = pods(consumer)
    [container] = pod["containers"]
    arguments = [re.sub(r"^--health-port=\d+$", "--health-port=0", word) for word in container["args"]]
    with Gateway(image) as gateway, ServiceBusProvider.from_connection_string(gateway.connection_string) as provider:
        provider.send_message("orders", Message("paid", session_id="order-1"))
        process = image.start(arguments, image.root / "app", SERVICEBUS_CONNECTION_STRING=gateway.connection_string)
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            notes = process.stderr.readline() + process.stderr.readline()
            port = int(re.search(r":(\d+)/healthz", notes)[1])  # type: ignore[index]
            assert process.stdout.readline() == "order-1: paid\n"
            live = container["livenessProbe"]["httpGet"]["path"]
            assert requests.get(f"http://127.0.0.1:{port}{live}", timeout=10).status_code == 200
            assert image.is_healthy(f"http://127.0.0.1:{port}{container['readinessProbe']['httpGet']['path']}")
            assert uid(process) == image.user
            began = time.monotonic()
            process.terminate()
            _, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, err
            assert time.monotonic() - began < pod["terminationGracePeriodSeconds"]
        finally:
            process.kill()
            process.communicate()
        assert [session.locked_until for session in provider.list_sessions("orders")] in ([], [None])
        with pytest.raises(NoSessionAvailableError):
            provider.create_session_client("orders", accept_timeout=0)


@pytest.mark.timeout(300)
def test_the_image_serves_and_consumes_and_ends_in_time(image: Image) -> None:
    # One test, because the image takes longer to build than all of these.
    check_that_it_serves_as_its_user_and_shows_no_key(image)
    check_that_a_stop_answers_waiting_receives_within_the_ten_seconds_of_docker(image)
    check_that_the_consumer_of_the_manifests_answers_probes_and_releases_its_sessions_at_sigterm(image)
