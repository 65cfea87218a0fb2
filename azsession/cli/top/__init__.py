"""The command `azsession top`: a live view of queues, sessions and consumers."""
