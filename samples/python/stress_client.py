#!/usr/bin/env python3
"""Many clients of the echo server at once, one thread each; checks every byte of every reply.

Owns:        N clients; each is one thread, one connection and its own tally.
Keeps true:  no message is sent before every client is connected (or has failed to), and every connection stays
             open until the last client has its last reply; a reply that is wrong or missing is counted, once.
Used as:     stress_client.py --port P [--clients N] [--messages M] [--name NAME] [--settle SECONDS]
             [--progress]; one JSON object on stdout; status 0 only if nothing was wrong and nobody failed.
             Standard library only.
See also:    echo_upper_server.py, ../stress_client.cc (the same in C++), ../stress (runs them all).
"""

import argparse
import array
import errno
import itertools
import json
import resource
import socket
import sys
import threading
import time

CONNECT_RETRIES = 5
FIRST_RETRY_WAIT_SECONDS = 0.1  # doubled each time
PROGRESS_INTERVAL_SECONDS = 0.2
COMPLAINTS_SHOWN = 10
TEMPORARY = (errno.ETIMEDOUT, errno.EADDRNOTAVAIL, errno.ECONNRESET, errno.EAGAIN, errno.ENOBUFS)

complaint_numbers = itertools.count()


def complain(who, what, why):
    """Says what went wrong, but not ten thousand times: the totals count everything anyway."""
    earlier = next(complaint_numbers)
    if earlier < COMPLAINTS_SHOWN:
        sys.stderr.write(f"stress_client: {who}: {what}: {why}\n")
    elif earlier == COMPLAINTS_SHOWN:
        sys.stderr.write("stress_client: more complaints are only counted\n")


def raise_descriptor_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class StartingLine:
    """Where clients wait until the last of them has come, and the line has settled."""

    def __init__(self, expected, settle):
        self._missing = expected
        self._settle = settle
        self._opened = threading.Condition()
        self.complete_at = None
        self.opened_at = None

    def arrive(self):
        if self._is_last_to_arrive():
            self._open()

    def arrive_and_wait(self):
        self.arrive()
        with self._opened:
            self._opened.wait_for(lambda: self.opened_at is not None)

    def _is_last_to_arrive(self):
        with self._opened:
            self.complete_at = time.monotonic()
            self._missing -= 1
            return self._missing == 0

    def _open(self):
        time.sleep(self._settle)
        with self._opened:
            self.opened_at = time.monotonic()
            self._opened.notify_all()


class Client:
    def __init__(self, options, number):
        self.options = options
        self.name = f"{options.name}-{number}"
        self.connection = None  # closed with the client, so after the last reply to anybody
        self.latencies_us = array.array("f")
        self.wrong = 0
        self.retries = 0
        self.finished_at = None

    def run(self, line):
        self.connection = self.connect()
        line.arrive_and_wait()
        if self.connection:
            self.exchange()
        self.finished_at = time.monotonic()

    def connect(self):
        """A full backlog is waited for by the kernel; retries are for what it gives up on, and they are counted."""
        wait = FIRST_RETRY_WAIT_SECONDS
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.options.port))
            except OSError as error:
                if error.errno not in TEMPORARY or self.retries == CONNECT_RETRIES:
                    complain(self.name, "not connected", error)
                    return None
            self.retries += 1
            time.sleep(wait)
            wait *= 2

    def exchange(self):
        for number in range(1, self.options.messages + 1):
            message = f"{self.name} say hello {number}\n".encode()
            sent_at = time.monotonic()
            try:
                self.connection.sendall(message)
                reply = self.receive_line(len(message))
            except OSError as error:
                complain(self.name, "connection lost", error)
                self.wrong += self.options.messages - number + 1
                return
            self.latencies_us.append((time.monotonic() - sent_at) * 1e6)
            if reply != message.upper():
                complain(self.name, "wrong reply", reply)
                self.wrong += 1

    def receive_line(self, expected_size):
        """Reads up to the newline, or until there is more than was asked for."""
        line = b""
        while len(line) <= expected_size and not line.endswith(b"\n"):
            received = self.connection.recv(512)
            if not received:
                raise ConnectionResetError(errno.ECONNRESET, "the server has ended the stream")
            line += received
        return line


def start_clients(clients, line):
    threads = []
    for client in clients:
        thread = threading.Thread(target=client.run, args=(line,))
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            complain(client.name, "no thread", error)
            line.arrive()
        else:
            threads.append(thread)
    return threads


def show_progress(clients, threads):
    """Returns when all clients have finished."""
    total = clients[0].options.messages * len(clients)
    while any(thread.is_alive() for thread in threads):
        time.sleep(PROGRESS_INTERVAL_SECONDS)
        connected = sum(client.connection is not None for client in clients)
        answered = sum(len(client.latencies_us) for client in clients)
        print(f"\r{connected} of {len(clients)} connected, {answered} of {total} answered", end="", file=sys.stderr)
    print(file=sys.stderr)


def percentile(ordered, fraction):
    return round(ordered[int(fraction * (len(ordered) - 1))], 1) if ordered else 0


def totals(clients, began_at, line):
    latencies_us = sorted(itertools.chain.from_iterable(client.latencies_us for client in clients))
    seconds = max((client.finished_at or line.opened_at) for client in clients) - line.opened_at
    connections = sum(client.connection is not None for client in clients)
    return {
        "connections": connections,
        "messages": len(latencies_us),
        "wrong": sum(client.wrong for client in clients),
        "failed": len(clients) - connections,
        "retries": sum(client.retries for client in clients),
        "seconds": round(seconds, 6),
        "connect_seconds": round(line.complete_at - began_at, 6),
        "messages_per_second": round(len(latencies_us) / seconds, 1) if seconds > 0 else 0,
        "p50_us": percentile(latencies_us, 0.50),
        "p99_us": percentile(latencies_us, 0.99),
        "max_us": percentile(latencies_us, 1),
    }


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def seconds(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def parse_options():
    parser = argparse.ArgumentParser(description="Clients of the echo server, one thread each.", allow_abbrev=False)
    parser.add_argument("--port", type=positive, required=True, metavar="P")
    parser.add_argument("--clients", type=positive, default=100, metavar="N", help="default 100")
    parser.add_argument("--messages", type=positive, default=10, metavar="M", help="by each client; default 10")
    parser.add_argument("--name", default="client", help="clients are called NAME-1 to NAME-N; default client")
    parser.add_argument("--settle", type=seconds, default=0, metavar="SECONDS",
                        help="between the last connection and the first message; default 0")
    parser.add_argument("--progress", action="store_true", help="show on stderr how far the clients are")
    return parser.parse_args()


def main():
    options = parse_options()
    raise_descriptor_limit()
    clients = [Client(options, number) for number in range(1, options.clients + 1)]
    line = StartingLine(options.clients, options.settle)

    began_at = time.monotonic()
    threads = start_clients(clients, line)
    if options.progress and threads:
        show_progress(clients, threads)
    for thread in threads:
        thread.join()

    result = totals(clients, began_at, line)
    print(json.dumps(result))
    return 0 if result["wrong"] == 0 and result["failed"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
