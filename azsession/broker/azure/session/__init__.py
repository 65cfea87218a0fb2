"""One session on Azure: its lock, receives, unsettled messages, and recovery after a lost link."""
