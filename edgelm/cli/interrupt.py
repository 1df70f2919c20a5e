"""Ctrl-C ends what runs within a second, also while it is deep in native code.

Python delivers an interrupt only between two of its own instructions: not while a graph is loaded or a long prompt is
computed. The system's handler itself runs at once, though, and writes a byte to a socket; a thread waits for it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_CODE = 130
# Time for the usual way: KeyboardInterrupt, clean-up, a newline.
GRACE_SECONDS = 0.5


@contextmanager
def prompt_exit() -> Iterator[None]:
    """Ends runs of graphs at an interrupt, and the process with exit code 130 if the block has not ended in
    ``GRACE_SECONDS``.

    For blocks that leave nothing half-written behind.
    """
    done = threading.Event()

    def end() -> None:
        interrupt_runs()
        if not done.wait(GRACE_SECONDS):
            os._exit(EXIT_CODE)

    with at_interrupt(end):
        try:
            yield
        finally:
            done.set()


@contextmanager
def at_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """Has another thread call ``act`` at once when an interrupt comes, before Python itself heeds it.

    Does nothing outside the main thread, where no interrupt goes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    awake, wake = socket.socketpair()
    wake.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(awake, act), name="edgelm-interrupt", daemon=True)
    previous = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        wake.close()  # what the watcher reads next is the end
        watcher.join()
        awake.close()


def interrupt_runs() -> None:
    """Ends the runs of graphs that are in progress; they raise CancelledError, where no KeyboardInterrupt comes first.

    Of a process that has not loaded the runtime, none can be.
    """
    runtime = sys.modules.get("edgelm.runtime.session")
    if runtime is not None:
        runtime.interrupt_runs()


def _watch(awake: socket.socket, act: Callable[[], None]) -> None:
    while received := awake.recv(64):
        if signal.SIGINT in received:
            act()
