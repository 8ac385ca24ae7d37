"""`python -S adopting.py COMMAND...`: run a command, and end when all that it started has ended, with its exit code.

What a command leaves behind when it ends (Spark's JVM lives a moment longer than its Python) would go to the machine's
first process, and its CPU-seconds with it. This process adopts it (PR_SET_CHILD_SUBREAPER, Linux), so that the times
of this process's children are those of the whole tree. It ends nothing by itself: the one who started it has a limit.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36


def run(command: list[str]) -> int:
    """The exit code of `command`, once no descendant is left. OSError when the kernel does not let us adopt."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    first, code = subprocess.Popen(command).pid, 1
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return code
        if pid == first:
            code = os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
