"""Ctrl-C ends the process within a second, also while it is deep in native code.

Python delivers an interrupt only between two of its own instructions: not while a graph is loaded or a long prompt is
computed. The system's handler itself runs at once, though, and writes a byte to a socket; a thread waits for it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 130
# Time for the usual way: KeyboardInterrupt, clean-up, a newline.
GRACE_SECONDS = 0.5


@contextmanager
def prompt_exit() -> Iterator[None]:
    """Ends the process with exit code 130 if an interrupt has not ended the block after ``GRACE_SECONDS``.

    For blocks that leave nothing half-written behind. Does nothing outside the main thread, where no interrupt goes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    awake, wake = socket.socketpair()
    wake.setblocking(False)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(awake, done), name="edgelm-interrupt", daemon=True)
    previous = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(previous)
        wake.close()  # what the watcher reads next is the end
        watcher.join()
        awake.close()


def _watch(awake: socket.socket, done: threading.Event) -> None:
    while received := awake.recv(64):
        if signal.SIGINT in received:
            if not done.wait(GRACE_SECONDS):
                os._exit(EXIT_CODE)
            return
