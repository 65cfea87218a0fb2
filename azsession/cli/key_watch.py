"""`KeyFileWatch`: lets a running gateway follow the changes of its key file. `azsession serve` has one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import ConfigurationError
from ..logs import SessionLogger, get_logger
from ..server import AccessKey
from .keyfile import read_keys

logger: SessionLogger = get_logger(__name__)

#: Seconds between two looks at the file.
INTERVAL = 1.0

#: The device, inode, size and time of a file. A file that has changed has others.
_Identity = tuple[int, int, int, int]
ReplaceKeys = Callable[[Iterable[AccessKey]], object]


class KeyFileWatch:
    """Looks at the key file once a second, in a thread of its own. A file that cannot be used changes nothing.

    Changes after this object was made are noticed. So make it before the keys are read.

    Args:
        path: The key file.
        interval: Seconds between two looks.
    """

    def __init__(self, path: Path, *, interval: float = INTERVAL) -> None:
        self._path = path
        self._interval = interval
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        #: The file whose keys are used, or whose fault is logged.
        self._known = self._identity()
        #: The file at the last look.
        self._last = self._known
        #: The keys that are used; `None` if it is not known, or after an error.
        self._keys: list[AccessKey] | None = None

    def start(self, replace_keys: ReplaceKeys, keys: Iterable[AccessKey]) -> None:
        """Begin.

        Args:
            replace_keys: Called with all keys of a file that has other keys.
            keys: The keys that are used at the beginning. The file may have been created with them after this object.
        """
        self._keys = list(keys)
        self._thread = threading.Thread(target=self._run, args=(replace_keys,), name="azsession-keys", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End, and wait for the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, replace_keys: ReplaceKeys) -> None:
        while not self._ended.wait(self._interval):
            self.look(replace_keys)

    def look(self, replace_keys: ReplaceKeys) -> None:
        """Take over the keys if the file has changed."""
        found, last = self._identity(), self._last
        self._last = found
        if found == self._known:
            return
        if found is not None and last is not None and found[:2] == last[:2] and found != last:
            # The same file is being written to. Its keys are complete when it has stayed the same for one interval.
            return
        self._known = found
        used, self._keys = self._keys, None
        try:
            self._keys = read_keys(self._path)
            if self._keys == used:
                return
            replace_keys(self._keys)
            logger.info("the keys in %s have changed", self._path)
        except FileNotFoundError:
            logger.error("the key file %s is gone; the gateway keeps its keys", self._path)
        except ConfigurationError as error:
            logger.error("%s; until then, the gateway keeps its keys", error)

    def _identity(self) -> _Identity | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
