"""`python -m azsession` is the command `azsession`."""

from .cli import main

if __name__ == "__main__":
    main()
