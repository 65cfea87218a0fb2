"""Runs the `azsession` command as `python -m azsession`."""

from .cli import main

if __name__ == "__main__":
    main()
