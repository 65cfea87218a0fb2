"""The command `azsession_consume`."""
