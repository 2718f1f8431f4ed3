"""An upstream for long-lived streams: /events is a server-sent event every 100 ms, /tunnel echoes what follows its upgrade."""

import asyncio
import base64
import hashlib
import sys

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"


async def serve(reader, writer):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /tunnel"):
            await tunnel(head, reader, writer)
        else:
            await events(writer)
    except (OSError, asyncio.IncompleteReadError):
        pass  # The client is gone.
    finally:
        writer.close()


async def events(writer):
    writer.write(EVENTS)
    while True:
        writer.write(b"data: tick\n\n")
        await writer.drain()
        await asyncio.sleep(0.1)


async def tunnel(head, reader, writer):
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
                 b"Sec-WebSocket-Accept: " + accept(head) + b"\r\n\r\n")
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()


def accept(head):
    fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    key = next(value.strip() for name, value in fields.items() if name.lower() == b"sec-websocket-key")
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
