"""The command `azsession demo`."""
