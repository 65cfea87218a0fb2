"""Management commands of Django: ``azsession_consume``."""
