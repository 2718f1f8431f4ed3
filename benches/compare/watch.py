"""A client that asks all the time and notes every answer, for the flip part; run as a process of its own.

watch.py PORT FILE: kept-alive connections and new ones ask for the colour at a steady rate, and event streams and tunnels are
held. When standard input ends, it writes to FILE what it saw, as JSON; times are seconds of the monotonic clock, the same in
all processes.
"""

import gc
import heapq
import json
import selectors
import socket
import sys
import time

KEPT, FRESH, HELD = 16, 4, 10
KEPT_RATE, FRESH_RATE = 2000, 200
HEAD = "GET / HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: watch\r\nAccept: */*\r\n"
UPGRADE = ("GET /tunnel HTTP/1.1\r\nHost: shop.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode()
EVENTS = b"GET /events HTTP/1.1\r\nHost: shop.example.com\r\nAccept: text/event-stream\r\n\r\n"
# A masked text frame of four octets.
FRAME = b"\x81\x84\x00\x00\x00\x00tick"


class Asker:
    """One connection's worth of requests, paced; a new connection for each if `fresh`."""

    def __init__(self, watch, fresh, period, phase):
        self.watch, self.fresh, self.period = watch, fresh, period
        self.request = (HEAD + ("Connection: close\r\n\r\n" if fresh else "\r\n")).encode()
        self.sock, self.sent, self.buffer = None, None, b""
        watch.at(time.monotonic() + phase, self.ask)

    def ask(self):
        if self.sent is None:
            self.sent, self.buffer = time.monotonic(), b""
            try:
                if self.sock is None:
                    self.connect()
                self.sock.send(self.request)
            except OSError as error:
                self.finish(error=type(error).__name__)
        self.watch.at(time.monotonic() + self.period, self.ask)

    def connect(self):
        self.sock = socket.create_connection(("127.0.0.1", self.watch.port), 2)
        self.sock.setblocking(False)
        self.watch.selector.register(self.sock, selectors.EVENT_READ, self.readable)

    def readable(self):
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            data, self.fault = b"", type(error).__name__
        else:
            self.fault = "closed"
        if not data and self.sent is None:
            # An idle connection ended: a client notices and makes another.
            self.watch.reconnects += 1
            self.drop()
        elif not data:
            self.finish(error=f"{self.fault} {'in' if self.buffer else 'before'} the answer")
        else:
            self.buffer += data
            self.look()

    def look(self):
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        fields = {}
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        if len(body) < int(fields.get(b"content-length", 0)):
            return
        status = head[9:12].decode()
        if status != "200":
            self.finish(error=f"status {status}")
        else:
            self.finish(colour=fields[b"x-colour"].decode(), close=self.fresh or fields.get(b"connection", b"").lower() == b"close")

    def finish(self, colour=None, error=None, close=False):
        self.watch.seen.append((self.sent, time.monotonic(), colour, error, self.fresh))
        self.sent = None
        if close or error:
            self.drop()

    def drop(self):
        if self.sock:
            self.watch.selector.unregister(self.sock)
            self.sock.close()
            self.sock = None


class Holder:
    """A stream that is held from the beginning to the end."""

    def __init__(self, watch, tunnel):
        self.watch, self.tunnel, self.broken = watch, tunnel, None
        self.sock = socket.create_connection(("127.0.0.1", watch.port), 5)
        self.sock.sendall(UPGRADE if tunnel else EVENTS)
        head = self.sock.recv(4096)
        if not head.startswith(b"HTTP/1.1 101" if tunnel else b"HTTP/1.1 200"):
            sys.exit(f"a stream did not begin: {head[:200]!r}")
        self.last = time.monotonic()
        self.sock.setblocking(False)
        watch.selector.register(self.sock, selectors.EVENT_READ, self.readable)
        if tunnel:
            watch.at(time.monotonic() + 0.1, self.tick)

    def tick(self):
        if self.broken is None:
            try:
                self.sock.send(FRAME)
            except OSError:
                return  # Reading tells.
            self.watch.at(time.monotonic() + 0.1, self.tick)

    def readable(self):
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.last = time.monotonic()
        else:
            self.broken = time.monotonic()
            self.watch.selector.unregister(self.sock)

    def result(self):
        # Silence is as bad as an end: something came every 100 ms.
        silent = self.broken is None and time.monotonic() - self.last > 1
        return {"tunnel": self.tunnel, "broken": self.last if silent else self.broken}


class Watch:
    """The loop: what is due, and what can be read."""

    def __init__(self, port):
        self.port, self.selector, self.due, self.number = port, selectors.DefaultSelector(), [], 0
        self.seen, self.reconnects = [], 0

    def at(self, moment, action):
        self.number += 1
        heapq.heappush(self.due, (moment, self.number, action))

    def run(self):
        holders = [Holder(self, tunnel) for tunnel in (False, True) for _ in range(HELD)]
        for n in range(KEPT):
            Asker(self, False, KEPT / KEPT_RATE, n / KEPT_RATE)
        for n in range(FRESH):
            Asker(self, True, FRESH / FRESH_RATE, n / FRESH_RATE)
        self.going = True
        self.selector.register(sys.stdin, selectors.EVENT_READ, self.stop)
        print("watching", flush=True)
        while self.going:
            while self.due and self.due[0][0] <= time.monotonic():
                heapq.heappop(self.due)[2]()
            for key, _ in self.selector.select(max(0.0, self.due[0][0] - time.monotonic())):
                key.data()
        return {"seen": self.seen, "reconnects": self.reconnects, "streams": [holder.result() for holder in holders]}

    def stop(self):
        self.going = False


if __name__ == "__main__":
    # Its pauses would be taken for the proxy's.
    gc.disable()
    result = Watch(int(sys.argv[1])).run()
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)
