"""Servers in the place of an Azure Service Bus namespace, for the tests of the Azure engine.

`OwnNamespace` is azsession's own AMQP endpoint, with faults that the tests inject. It runs everywhere, and is the default.
`tests.standin.StandIn` is a second, independent server, which needs a C compiler.
"""

from tests.namespaces.namespace import Counts, Entry, Namespace
from tests.namespaces.own import OwnNamespace

__all__ = ["Counts", "Entry", "Namespace", "OwnNamespace"]
