"""The Explorer of several gateways behind nginx, with the configuration of the documentation."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from azsession.broker.embedded import EmbeddedBroker
from azsession.server import GatewayService

from ...conftest import eventually
from ..nginx import Nginx, require_nginx
from .visitor import KEYS, ROOT, Site, Visitor


class Behind(Site):
    """Gateways behind nginx."""

    address = ""

    @property
    def url(self) -> str:
        return f"{self.address}/explorer"


def test_a_user_of_several_gateways_signs_in_once(tmp_path: Path) -> None:
    require_nginx()
    with ExitStack() as stack:
        broker = EmbeddedBroker(queues=["orders"])
        services = [stack.enter_context(GatewayService(broker, KEYS)) for _ in range(3)]
        nginx = stack.enter_context(Nginx(tmp_path / "nginx", [service.url.removeprefix("http://") for service in services]))
        eventually(nginx.is_up)
        site = Behind(services[0], broker)
        object.__setattr__(site, "address", nginx.url)
        visitor = Visitor(site, ROOT)
        site.dead_letter("orders", *(f"{number:02}" for number in range(12)))
        # The requests go to different gateways.
        for number in range(1, 11):
            assert visitor.get("queues").status_code == 200
            assert visitor.post("resubmit", {}, {"queue": "orders", "number": number}).status_code == 303
        assert site.dead("orders") == [b"10", b"11"]
