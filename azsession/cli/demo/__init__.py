"""The command `azsession demo`: sends messages in many sessions, receives them with workers, and checks their order."""
