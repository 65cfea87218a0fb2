"""Where the Explorer is: next to a queue of its name, below a prefix, behind a proxy, without jinja2."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
from starlette.applications import Starlette
from starlette.routing import Mount

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import AccessKey, create_app
from azsession.server.explorer.mount import is_for_explorer

from ..http.test_mounting import served
from .visitor import ROOT, Site, Visitor


@pytest.mark.parametrize(
    ("path", "authorization", "expected"),
    [
        ("/explorer", None, True),
        ("/explorer/queues", None, True),
        ("/explorer/sessions", "Basic dXNlcjpwYXNz", True),
        ("/explorer/sessions", "Bearer abc", True),
        ("/explorer", "SharedAccessSignature sr=..", False),
        ("/explorer/sessions", "sharedaccesssignature sr=..", False),
        ("/explorers", None, False),
        ("/~explorer", None, False),
        ("/orders/explorer", None, False),
        ("/", None, False),
        ("/EXPLORER", None, False),
    ],
)
def test_requests_with_a_signature_belong_to_the_protocol(path: str, authorization: str | None, expected: bool) -> None:
    assert is_for_explorer(path, authorization) is expected


@pytest.mark.parametrize("name", ["explorer", "explorer/queues", "explorer/sub"])
def test_a_queue_of_the_same_name_keeps_working(site: Site, name: str) -> None:
    site.broker.create_queue(name, QueueSettings()).result()
    with ServiceBusProvider.from_connection_string(site.service.connection_string()) as provider:
        provider.send_message(name, Message("body", session_id="messages"))
        assert [one.session_id for one in provider.list_sessions(name)] == ["messages"]
        assert provider.get_queue(name).active_count == 1
        assert name in [queue.name for queue in provider.list_queues()]
        with provider.create_session_client(name, "messages") as session:
            message = session.receive_message(timeout=5)
            assert message is not None
            session.dead_letter_message(message, "why")
        assert [one.body for one in provider.dead_letters(name)] == [b"body"]
    page = Visitor(site, ROOT).get("dead-letters", {"queue": name})
    assert "why" in page.text


def test_without_a_signature_the_path_is_a_page(site: Site) -> None:
    assert requests.get(f"{site.url}/sessions", allow_redirects=False, timeout=10).status_code == 303
    # The plain dialect without a token would get 401 as well.
    answer = requests.delete(f"{site.service.url}/explorer/sessions/a/messages/head", timeout=10)
    assert answer.status_code == 404


def test_the_explorer_works_below_a_prefix() -> None:
    broker = EmbeddedBroker(queues=["orders"])
    application = Starlette(routes=[Mount("/a b/bus", create_app(broker, keys=[ROOT]))])
    with served(application) as url:
        visitor = Visitor.__new__(Visitor)
        visitor.url, visitor.http = f"{url}/a%20b/bus/explorer", requests.Session()
        start = visitor.http.get(f"{url}/a%20b/bus/explorer", timeout=10)
        assert start.url == f"{url}/a%20b/bus/explorer/sign-in?to=queues"
        assert visitor.sign_in(ROOT.name, ROOT.key).headers["Location"] == "queues"
        assert "orders</a>" in visitor.get("queues").text
        assert {cookie.path for cookie in visitor.http.cookies} == {"/a%20b/bus/explorer"}
    broker.close()


def test_the_explorer_works_behind_a_proxy_that_removes_a_prefix() -> None:
    broker = EmbeddedBroker(queues=["orders"])
    application = create_app(broker, keys=[ROOT])

    async def proxy(scope: dict[str, Any], receive: Any, send: Any) -> None:
        # The gateway does not know the prefix, as behind nginx's "location /tools/ { proxy_pass http://gateway/; }".
        paths = {"path": scope["path"].removeprefix("/tools"), "raw_path": scope["raw_path"].removeprefix(b"/tools")}
        await application({**scope, **paths}, receive, send)

    with served(proxy) as url:
        visitor = Visitor.__new__(Visitor)
        visitor.url, visitor.http = f"{url}/tools/explorer", requests.Session()
        start = visitor.http.get(f"{url}/tools/explorer", timeout=10)
        assert start.url == f"{url}/tools/explorer/sign-in?to=queues"
        assert visitor.sign_in(ROOT.name, ROOT.key).headers["Location"] == "queues"
        assert "orders</a>" in visitor.get("queues").text
        assert {cookie.path for cookie in visitor.http.cookies} == {"/tools/explorer"}
    broker.close()


@pytest.mark.parametrize("page", ["nowhere", "queues/", "queues/orders", "a/b/c", "queues%2Forders", "a%2Fb/c"])
def test_the_page_of_an_error_finds_its_files_and_the_first_page(site: Site, visitor: Visitor, page: str) -> None:
    answer = visitor.get(page)
    assert answer.status_code == 404
    used = [urljoin(f"{site.url}/{page}", found) for found in re.findall(r'(?:href|src)="([^"]*)"', answer.text)]
    assert set(used) == {f"{site.url}/{name}" for name in ("icon.svg", "explorer.css", "queues")}


def test_no_address_in_a_page_is_absolute(site: Site, visitor: Visitor) -> None:
    # So that a proxy can put any prefix in front of the path.
    site.dead_letter("orders", "x")
    site.send("orders", "y")
    pages = [("queues", {}), ("sign-in", {}), ("nowhere", {})]
    pages += [
        (name, {"queue": "orders", "session": "s"}) for name in ("sessions", "messages", "dead-letters", "send", "purge")
    ]
    for page, query in pages:
        html = visitor.get(page, query).text
        for start in ('href="', 'src="', 'action="'):
            for rest in html.split(start)[1:]:
                address = rest.partition('"')[0]
                assert urljoin("http://h/p/explorer/x", address).startswith("http://h/p/explorer/"), address


def test_an_application_without_keys_has_no_explorer() -> None:
    broker = EmbeddedBroker(queues=["orders"])
    with served(create_app(broker, keys=None)) as url:
        answer = requests.get(f"{url}/explorer/queues", allow_redirects=False, timeout=10)
        assert "Azsession-Protocol" in answer.headers
        assert answer.status_code == 404
    broker.close()


def test_without_jinja2_the_gateway_works_and_the_explorer_says_what_to_install() -> None:
    code = """
import sys
sys.modules["jinja2"] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "jinja2" else real(name, *rest)
import requests
from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService
with GatewayService(EmbeddedBroker(queues=["orders"]), [AccessKey.generate()]) as service:
    with ServiceBusProvider.from_connection_string(service.connection_string()) as provider:
        provider.send_message("orders", Message("x", session_id="s"))
    answer = requests.get(service.url + "/explorer/queues")
    print(answer.status_code, answer.text)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("501 jinja2 is not installed")
    assert "pip install" in done.stdout


def test_jinja2_is_not_imported_before_a_page_is_asked_for() -> None:
    code = """
import sys
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService
with GatewayService(EmbeddedBroker(queues=["orders"]), [AccessKey.generate()]) as service:
    print("jinja2" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_a_key_can_be_replaced_by_one_of_the_same_name(site: Site) -> None:
    site.service.replace_keys([AccessKey("root", "bmV3")])
    assert Visitor(site).sign_in("root", ROOT.key).status_code == 403
    assert Visitor(site).sign_in("root", "bmV3").status_code == 303
