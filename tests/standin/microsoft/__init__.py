"""Microsoft's own session tests, run against the stand-in. They come from the source distribution of azure-servicebus.

`sources` downloads them, `shim` replaces their recording tools and their preparers of Azure resources, `fast` lets their
waits pass faster, and `python -m tests.standin.microsoft` runs them.
"""
