"""Runs the Python blocks of one page in one namespace. `page_run` starts it as a process.

It reads a JSON object for each block from stdin, and writes one with the outcome and the output to stdout.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback


def main() -> None:
    names = {"__name__": "__main__"}
    sys.path.insert(0, "")
    for line in sys.stdin:
        block = json.loads(line)
        output = io.StringIO()
        is_done = False
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                # As many lines before it as in the page, so that a traceback shows the page's line.
                exec(compile("\n" * block["line"] + block["code"], block["page"], "exec"), names)
                is_done = True
            except BaseException:
                traceback.print_exc()
        sys.__stdout__.write(json.dumps({"is_done": is_done, "output": output.getvalue()}) + "\n")
        sys.__stdout__.flush()


main()
