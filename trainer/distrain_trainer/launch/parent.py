"""A process that must not outlive the one that has started it."""

import ctypes
import os
import signal
import sys


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, in whatever way (Linux only)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended in between
        os._exit(137)
