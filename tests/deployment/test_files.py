"""The Dockerfile, compose file, systemd units and Kubernetes manifests are valid, safe, and agree with the command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
from kubernetes_validate import validate

from azsession.cli.serve import DEFAULT_PORT
from azsession.processor.processor import LAST_WAIT

from ..support.paths import ROOT
from .files import (
    COMPOSE,
    CONSUMER_DOCKERFILE,
    DOCKERFILE,
    EXAMPLES,
    MANIFESTS,
    UNITS,
    compose,
    instruction,
    instructions,
    object_of,
    objects,
    parsed,
    pods,
    unit,
    words,
)

#: Seconds beyond the grace period of a consumer in which its sessions are released, with time to spare.
RELEASE = LAST_WAIT + 5
#: Seconds that a gateway gets to finish running requests.
DRAIN = 20
#: The secure settings of a container in Kubernetes.
SECURE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
NAMES = [path.name for path in MANIFESTS]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the arguments of each command line of azsession in the files."""
    yield "Dockerfile", words("CMD")
    yield "consumer.Dockerfile", words("CMD", CONSUMER_DOCKERFILE)
    for name, service in compose()["services"].items():
        yield f"compose {name}", service["command"]
    for path in UNITS:
        for line in unit(path)["ExecStart"]:
            yield path.name, line.split()[1:]
    for path in MANIFESTS:
        for name, pod in pods(path):
            for container in pod["containers"]:
                if container["image"].startswith("azsession:"):
                    yield f"{path.name} {name}", container["args"]


LINES = list(command_lines())


@pytest.mark.parametrize("arguments", [line for _, line in LINES], ids=[place for place, _ in LINES])
def test_the_command_accepts_the_command_line(arguments: list[str]) -> None:
    options = parsed(arguments)
    if arguments[0] == "serve":
        # No log shows the key.
        assert options["hide_key"]


def test_an_option_that_does_not_exist_is_found() -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        parsed(["serve", "--no-such-option"])


# The image


@pytest.mark.parametrize("path", [DOCKERFILE, CONSUMER_DOCKERFILE], ids=lambda path: path.name)
def test_a_dockerfile_has_no_fault(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    # DL3006: the base of a consumer's image is built from the repository, and has no other tag.
    ran = subprocess.run([hadolint, "--ignore", "DL3006", path], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_the_image_runs_as_a_user_with_a_number_and_keeps_its_data_in_a_volume() -> None:
    user, group = map(int, instruction("USER").split(":"))
    assert user == group == 10001
    assert instruction("VOLUME") == "/data"
    assert str(parsed(words("CMD"))["data"]) == "/data/azsession.db"
    # The volume gets the owner of the folder in the image.
    assert any(name == "RUN" and re.search(r"--owner azsession .* /data\b", value) for name, value in instructions())
    # Without a shell in between, the process gets SIGTERM.
    assert (words("ENTRYPOINT"), instruction("STOPSIGNAL")) == (["azsession"], "SIGTERM")


def test_the_image_is_probed_where_it_listens() -> None:
    url = urlsplit(re.search(r"AZSESSION_PROBE_URL=(\S+)", instruction("ENV"))[1])  # type: ignore[index]
    assert (url.hostname, url.port, url.path) == ("127.0.0.1", DEFAULT_PORT, "/readyz")
    assert instruction("EXPOSE") == str(DEFAULT_PORT)
    assert parsed(words("CMD"))["port"] == DEFAULT_PORT
    assert "curl" not in DOCKERFILE.read_text(encoding="utf-8")


def test_the_image_of_a_consumer_is_probed_where_it_listens() -> None:
    url = urlsplit(instruction("ENV", CONSUMER_DOCKERFILE).partition("=")[2])
    assert (url.port, url.path) == (parsed(words("CMD", CONSUMER_DOCKERFILE))["health_port"], "/readyz")


# compose


def test_the_services_are_probed_where_they_listen_and_have_time_to_end() -> None:
    services = compose()["services"]
    gateway, consumer = parsed(services["gateway"]["command"]), parsed(services["consumer"]["command"])
    string = services["consumer"]["environment"]["SERVICEBUS_CONNECTION_STRING"]
    assert string.startswith(f"Endpoint=http://{gateway['hostnames'][0]}:{gateway['port']}/;SharedAccessKeyName=app;")
    assert services["gateway"]["environment"]["AZSESSION_KEYS"].startswith("app:${AZSESSION_KEY:?")
    assert services["gateway"]["ports"] == [f"127.0.0.1:{DEFAULT_PORT}:{gateway['port']}"]
    probe = urlsplit(services["consumer"]["environment"]["AZSESSION_PROBE_URL"])
    assert (probe.port, probe.path) == (consumer["health_port"], "/readyz")
    assert services["gateway"]["volumes"] == ["data:/data"]
    assert _seconds(services["consumer"]["stop_grace_period"]) >= consumer["grace_period"] + RELEASE
    assert _seconds(services["gateway"]["stop_grace_period"]) >= DRAIN
    for service in services.values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_compose_file_names_files_that_exist() -> None:
    services = compose()["services"]
    assert (COMPOSE.parent / services["gateway"]["build"]["context"] / "Dockerfile").resolve() == DOCKERFILE
    assert (COMPOSE.parent / services["consumer"]["volumes"][0].partition(":")[0]).is_file()


# systemd


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit_and_finds_it_hardened(path: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("AZSESSION_REQUIRE_SYSTEMD"):
            pytest.fail("AZSESSION_REQUIRE_SYSTEMD is set, and this needs systemd-analyze")
        pytest.skip("needs systemd-analyze (Debian: systemd)")
    # The command must exist.
    command = Path(sys.executable).with_name("azsession")
    copy = tmp_path / path.name
    copy.write_text(path.read_text(encoding="utf-8").replace("/opt/azsession/bin/azsession", str(command)), encoding="utf-8")
    verified = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    # From 0, safe, to 10.
    rated = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", copy]
    security = subprocess.run(rated, capture_output=True, text=True, timeout=60, check=False)
    assert security.returncode == 0, security.stdout


def test_the_units_keep_the_data_and_give_time_to_end() -> None:
    gateway, consumer = unit(EXAMPLES / "azsession.service"), unit(EXAMPLES / "azsession-consumer.service")
    assert gateway["StateDirectory"] == ["azsession"]
    assert "--data %S/azsession/azsession.db" in gateway["ExecStart"][0]
    assert float(gateway["TimeoutStopSec"][0]) >= DRAIN
    grace = parsed(consumer["ExecStart"][0].split()[1:])["grace_period"]
    assert float(consumer["TimeoutStopSec"][0]) >= grace + RELEASE
    for each in (gateway, consumer):
        assert (each["DynamicUser"], each["NoNewPrivileges"], each["CapabilityBoundingSet"]) == (["yes"], ["yes"], [""])


def test_the_documented_command_line_with_tls_is_accepted(tmp_path: Path) -> None:
    text = (EXAMPLES / "azsession.service").read_text(encoding="utf-8")
    found = re.search(r"#   ExecStart=/opt\S+ (.*?\\\n#.*)$", text, re.MULTILINE)
    assert found is not None
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    line = found[1].replace("\\\n#", "").replace("%d", str(tmp_path))
    assert str(parsed(line.split())["tls_key"]) == str(tmp_path / "key.pem")


# Kubernetes


@pytest.mark.parametrize("path", MANIFESTS, ids=NAMES)
def test_each_object_is_valid_for_the_schemas_of_kubernetes(path: Path) -> None:
    assert len(objects(path)) >= 1
    for each in objects(path):
        for version in ("1.30", "1.34"):
            validate(each, version, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=NAMES)
def test_each_container_is_secure_and_probed_where_it_listens(path: Path) -> None:
    for _, pod in pods(path):
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert pod["automountServiceAccountToken"] is False
        [container] = pod["containers"]
        assert SECURE.items() <= container["securityContext"].items()
        assert container["resources"]["limits"]["memory"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("livenessProbe", "readinessProbe"):
            handler = container[probe].get("httpGet") or container[probe]["tcpSocket"]
            assert handler["port"] in ports
        if container["image"].startswith("azsession:"):
            assert f"{security['runAsUser']}:{security['runAsGroup']}" == instruction("USER")
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert (container["livenessProbe"]["httpGet"]["path"], container["readinessProbe"]["httpGet"]["path"]) == (
                "/healthz",
                "/readyz",
            )
            options = parsed(container["args"])
            [port] = ports.values()
            assert port == (options["health_port"] if container["args"][0] == "consume" else options["port"])


@pytest.mark.parametrize("path", MANIFESTS, ids=NAMES)
def test_each_pod_has_time_to_end(path: Path) -> None:
    for _, pod in pods(path):
        [container] = pod["containers"]
        options = parsed(container["args"]) if "args" in container else {}
        needed = options["grace_period"] + RELEASE if "grace_period" in options else DRAIN
        assert pod["terminationGracePeriodSeconds"] >= needed


@pytest.mark.parametrize("path", [path for path in MANIFESTS if path.name != "consumer.yaml"], ids=lambda path: path.name)
def test_the_services_lead_to_the_pods_under_the_name_of_the_gateway(path: Path) -> None:
    service = object_of(path, "Service", "azsession")
    assert service["spec"]["ports"][0]["port"] == DEFAULT_PORT
    workloads = [each for each in objects(path) if each["kind"] in ("StatefulSet", "Deployment")]
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in workloads]
    assert any(service["spec"]["selector"].items() <= each.items() for each in labels)
    for name, pod in pods(path):
        [container] = pod["containers"]
        if container["image"].startswith("azsession:"):
            assert parsed(container["args"])["hostnames"] == ("azsession",), name
            # The gateway may read the file through the group of the pod.
            [secret] = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
            assert (secret["defaultMode"], pod["securityContext"]["fsGroup"]) == (0o440, 10001)


def test_one_pod_owns_the_file() -> None:
    gateway = object_of(MANIFESTS_BY_NAME["gateway.yaml"], "StatefulSet", "azsession")
    assert gateway["spec"]["replicas"] == 1
    [claim] = gateway["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    [container] = gateway["spec"]["template"]["spec"]["containers"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container["volumeMounts"]


MANIFESTS_BY_NAME = {path.name: path for path in MANIFESTS}


def test_nginx_in_kubernetes_is_configured_as_documented() -> None:
    path = MANIFESTS_BY_NAME["azure.yaml"]
    text = object_of(path, "ConfigMap", "azsession-nginx")["data"]["azsession.conf"]
    replicas = object_of(path, "StatefulSet", "azsession-gateway")["spec"]["replicas"]
    gateways = re.findall(r"^    server (\S+):8720 ", text, re.MULTILINE)
    assert gateways == [f"azsession-gateway-{number}" for number in range(replicas)]
    for name in gateways:
        selector: dict[str, Any] = object_of(path, "Service", name)["spec"]["selector"]
        assert selector == {"statefulset.kubernetes.io/pod-name": name}
    documented = (ROOT / "docs" / "nginx.conf").read_text(encoding="utf-8").partition("\n\n")[2]
    assert _without_places(text) == _without_places(documented)


def _without_places(text: str) -> list[str]:
    """Return the lines of an nginx configuration without those that name servers, ports and certificates."""
    return [line for line in text.splitlines() if not re.match(r"    (server \S+:8720|listen|server_name|ssl_)", line)]


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
