#!/usr/bin/env python3
"""A thread-per-connection TCP server that answers each line in upper case.

Owns:        the listening socket; each connection is owned by the one thread that serves it.
Keeps true:  replies come in the order of the lines, however packets split or join them; no connection, and no
             shortage of descriptors or threads, ends the server.
Used as:     echo_upper_server.py [--port P]; it ends by SIGTERM.  Standard library only, an ordinary threaded program.
See also:    stress_client.py, ../echo_upper_server.cc (the same in C++), ../stress (runs them all).
"""

import argparse
import errno
import resource
import select
import socket
import sys
import threading
import time

BACKLOG = 65535  # the kernel lowers it to net.core.somaxconn
LONGEST_LINE = 65536  # an endless line must not eat our memory
SHORTAGE_WAIT_SECONDS = 0.01
DESCRIPTOR_LIMITS = (errno.EMFILE, errno.ENFILE)
SHORTAGES = (*DESCRIPTOR_LIMITS, errno.ENOBUFS, errno.ENOMEM)
OUR_MISTAKES = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK)


def report(what, why):
    sys.stderr.write(f"echo_upper_server: {what}: {why}\n")


def raise_descriptor_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def answer_lines(connection):
    """Answers until the peer ends the stream; a last line without its newline is answered too."""
    pending = b""  # already in upper case, not yet a whole line
    while received := connection.recv(4096):
        pending += received.upper()
        whole_lines = pending.rfind(b"\n") + 1  # 0 when there is none
        connection.sendall(pending[:whole_lines])
        pending = pending[whole_lines:]
        if len(pending) > LONGEST_LINE:
            return report("connection closed", "line too long")
    connection.sendall(pending)


def serve(connection):
    with connection:
        try:
            answer_lines(connection)
        except OSError as error:
            report("connection lost", error)


def serve_on_thread(connection):
    """If no thread can be had, the connection is closed and the server goes on."""
    try:
        threading.Thread(target=serve, args=(connection,), daemon=True).start()
    except (RuntimeError, MemoryError) as error:
        connection.close()
        report("connection closed, no thread for it", error)


class SpareDescriptor:
    """Kept back, so that at the limit of descriptors a connection can still be accepted, and closed."""

    def __init__(self):
        self._spare = socket.socket()

    def turn_away_one(self, listener):
        self._spare.close()
        try:
            listener.accept()[0].close()
            self._spare = socket.socket()
        except OSError:
            return False
        return True


def accept(listener):
    try:
        return listener.accept()[0]
    except OSError as error:
        if error.errno not in DESCRIPTOR_LIMITS:
            raise
    # At the limit accept fails at once instead of waiting; so wait first, there may be room by then.
    incoming = select.poll()
    incoming.register(listener, select.POLLIN)
    incoming.poll()
    return listener.accept()[0]


def accept_forever(listener):
    """Returns only when the listening socket itself is unusable."""
    spare = SpareDescriptor()
    while True:
        try:
            connection = accept(listener)
        except OSError as error:
            report("connection not accepted", error)
            if error.errno in OUR_MISTAKES:
                return
            if error.errno in DESCRIPTOR_LIMITS and spare.turn_away_one(listener):
                continue
            if error.errno in SHORTAGES:
                time.sleep(SHORTAGE_WAIT_SECONDS)
        else:
            serve_on_thread(connection)


def main():
    parser = argparse.ArgumentParser(description="Answers each line in upper case.", allow_abbrev=False)
    parser.add_argument("--port", type=int, default=0, metavar="P", help="0, the default: any free port")
    options = parser.parse_args()

    raise_descriptor_limit()
    with socket.create_server(("127.0.0.1", options.port), backlog=BACKLOG) as listener:
        print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
        accept_forever(listener)
    return 1


if __name__ == "__main__":
    sys.exit(main())
