"""Talks to a server of ours with websockets.

usage: client.py PORT talk|wait|listen|more

What more says is understood by the servers that know commands.
"""

import asyncio
import sys

# The newer interface of the package is not everywhere yet.
from websockets.exceptions import InvalidStatusCode
from websockets.legacy.client import WebSocketClientProtocol, connect

URL = f"ws://127.0.0.1:{sys.argv[1]}/cats?lives=9"


class Client(WebSocketClientProtocol):
    ended = "no EOF"

    def eof_received(self):
        self.ended = "EOF"
        return super().eof_received()


def check(name, got, want):
    """Prints what came and fails if it is not what was expected."""
    print(f"{name}: {got}", flush=True)
    if got != want:
        raise ValueError(f"{name}: want {want!r}")


async def check_end(ws, want):
    """Waits for the end of the connection. Without a reason in want, any will do."""
    await ws.wait_closed()
    # The code is that of the server's close frame, or 1006 if none has come.
    check("close", f"{ws.close_code} {ws.close_reason}" if " " in want else str(ws.close_code), want)
    check("end", ws.ended, "EOF")


async def check_large(ws, name, data, suffix):
    await ws.send(data)
    answer = await ws.recv()
    if answer != data + suffix:
        raise ValueError(f"{name}: other data")
    check(name, f"{len(answer)} bytes", f"{len(data) + 7} bytes")


async def fragments(ws):
    """Yields the fragments of a message, with a ping between them."""
    yield "frag"
    await (await ws.ping("purr"))
    print("pong: purr", flush=True)
    yield "mented"


async def shake_hands(**more):
    ws = await connect(URL, create_protocol=Client, **more)
    greeting = await ws.recv()
    if greeting != "Do you read me, Lieutenant Bowie?":
        raise ValueError(greeting)
    return ws


async def talk(mode):
    ws = await shake_hands(origin="http://127.0.0.1")
    print("greeting: Do you read me, Lieutenant Bowie?", flush=True)
    if mode != "talk":
        if mode == "listen":
            check("broadcast", await ws.recv(), "Night falls.")
        await check_end(ws, "1001")
        return

    await ws.send("hello")
    check("hello", await ws.recv(), "hello, meow.")

    await ws.send("")
    check("empty", await ws.recv(), ", meow.")

    cat = "\u03b3\u03ac\u03c4\u03b1 \U0001f431"
    await ws.send(cat)
    check("unicode", await ws.recv(), f"{cat}, meow.")

    await check_large(ws, "large", "0123456789" * 7000, ", meow.")

    for text in ["one", "two", "three"]:
        await ws.send(text)
    check("batch", " ".join([await ws.recv() for _ in range(3)]), "one, meow. two, meow. three, meow.")

    await ws.send(fragments(ws))
    check("fragmented", await ws.recv(), "fragmented, meow.")

    await ws.close(1000)
    await check_end(ws, "1000")


async def more():
    try:
        ws = await connect(URL, origin="http://example.com")
    except InvalidStatusCode as e:
        check("other origin", e.status_code, 403)

    for offered, accepted in [(["purr"], "purr"), (["bark", "purr", "meow"], "meow"), (["bark"], None)]:
        ws = await shake_hands(subprotocols=offered)
        check("subprotocol", ws.subprotocol, accepted)
        await ws.close(1000)
        await check_end(ws, "1000")

    ws = await shake_hands(
        subprotocols=["purr"],
        extra_headers=[("Cookie", "name=Tom; tail=long"), ("Cat", "Felix")],
    )
    await ws.send("request")
    want = "/cats?lives=9, purr, name=Tom; tail=long, Felix"
    check("request", await ws.recv(), want)

    await ws.send(b"\x00\xff")
    check("binary", await ws.recv(), b"\x00\xff, meow.")
    await ws.send(b"")
    check("empty binary", await ws.recv(), b", meow.")
    limit = 1 << 20
    await check_large(ws, "large text", "\u00e9" * (limit // 2 - 4), ", meow.")
    await check_large(ws, "large binary", b"\x00" * (limit - 7), b", meow.")
    await ws.send([b"\xff" * n for n in [1, 0, 125, 126, 1 << 16]])
    check("binary fragments", len(await ws.recv()), 1 + 125 + 126 + (1 << 16) + 7)

    await ws.send("fragments")
    check("fragments", await ws.recv(), "fragmented")

    await ws.send("close 4001 \u03b3\u03ac\u03c4\u03b1")
    await check_end(ws, "4001 \u03b3\u03ac\u03c4\u03b1")

    ws = await shake_hands()
    await ws.send(b"x" * (limit + 1))
    await check_end(ws, "1009")

    ws = await shake_hands()
    await ws.close(4002, "\u03b3\u03ac\u03c4\u03b1")
    await check_end(ws, "4002")


asyncio.run(more() if sys.argv[2] == "more" else talk(sys.argv[2]))
