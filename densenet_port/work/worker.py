"""A worker process of the pool: makes its callable, and answers each item with what became of it, until stdin ends.

What is asked comes on stdin and is answered on stdout; whatever else is printed, by the callable or by a library, goes
to stderr. A thread of its own reads, so that the end of stdin is noticed in the middle of an item: it is the end of
whoever started this process, and then of this one with all that it started.
"""

import os
import pickle
import signal
import struct
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

from densenet_port.errors import PortError

LENGTH = struct.Struct("<Q")  # before each message


def send(stream: IO[bytes], message: bytes) -> None:
    """Write a message. Raises OSError where nobody reads."""
    stream.write(LENGTH.pack(len(message)) + message)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Read a message. Raises EOFError where the stream ends before its end."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    message = stream.read(length)
    if len(message) < length:
        raise EOFError
    return message


def main() -> None:
    """Answer on stdout what comes on stdin."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    messages: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(questions, messages), daemon=True).start()
    try:
        task = _loaded(messages)()
    except PortError as error:
        send(answers, pickle.dumps((None, error)))
        return
    send(answers, pickle.dumps((None, None)))
    while True:
        send(answers, pickle.dumps(answer(task, _loaded(messages))))


def answer(task: Any, item: Any) -> tuple[dict[str, Any] | None, str | None]:
    """The result of an item, or how it was lost."""
    try:
        return task(item), None
    except Exception as error:  # noqa: BLE001 (the next item is to be done)
        return None, " ".join(f"{type(error).__name__}: {error}".split())


def _loaded(messages: "SimpleQueue[bytes]") -> Any:
    return pickle.loads(messages.get())  # noqa: S301 (of the process that started this one)


def _listen(stream: IO[bytes], messages: "SimpleQueue[bytes]") -> None:
    """Hand over what comes, to the end, which is that of this process."""
    with suppress(EOFError):
        while True:
            messages.put(receive(stream))
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
