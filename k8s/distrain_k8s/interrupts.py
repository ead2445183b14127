"""Ctrl-C: heard for certain where a command only reads, and held back while a run is made or removed."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from distrain_k8s.output import say

AGAIN = 1.0
"""Seconds after which a Ctrl-C that came to nothing is raised again."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises KeyboardInterrupt at Ctrl-C until it leaves this block.

    Libraries drop it: Python itself where it comes within a finalizer, websocket-client where it closes a connection.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: object) -> NoReturn:
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGALRM, signal.SIGINT)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted(name: str) -> Iterator[None]:
    """Holds Ctrl-C back until a run is made or removed, so that it is never left half made; then raises it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        if not heard:
            say(f"Ctrl-C: finishing with {name} first, which takes seconds")
        heard.append(number)

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt
