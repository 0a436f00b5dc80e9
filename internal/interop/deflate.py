"""Talks to us compressed, with websockets.

It goes to a server of ours if there is a PORT, or else is a server, on a port that it
prints. It sends every message back, and one that starts with "fragments" in fragments,
with a ping between them.

usage: deflate.py PARAMS [PORT]

PARAMS is JSON: the parameters of permessage-deflate to ask for, or null for none of it.
"""

import asyncio
import json
import sys

from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory

# The newer interface of the package is not everywhere yet.
from websockets.legacy.client import connect
from websockets.legacy.server import serve

PARAMS = json.loads(sys.argv[1])


def options(factory):
    extensions = None if PARAMS is None else [factory(**PARAMS)]
    return {"compression": None, "extensions": extensions, "max_size": 2 << 20}


def agreed(ws, side):
    """Says what has been agreed on for what one side sends."""
    if not ws.extensions:
        return "plain"
    bits = getattr(ws.extensions[0], f"{side}_max_window_bits")
    reset = getattr(ws.extensions[0], f"{side}_no_context_takeover")
    return f"{bits} {'reset' if reset else 'takeover'}"


async def fragments(ws, message):
    yield message[:1000]
    await (await ws.ping("purr"))
    yield message[1000:]


async def talk(ws):
    print(f"reads {agreed(ws, 'remote')}, writes {agreed(ws, 'local')}", flush=True)
    try:
        async for message in ws:
            if isinstance(message, str) and message.startswith("fragments"):
                await ws.send(fragments(ws, message))
            else:
                await ws.send(message)
    except ConnectionClosed:
        pass
    print(f"closed {ws.close_code}", flush=True)


async def main():
    if len(sys.argv) > 2:
        await talk(await connect(f"ws://127.0.0.1:{sys.argv[2]}/", **options(ClientPerMessageDeflateFactory)))
        return
    server = await serve(talk, "127.0.0.1", 0, **options(ServerPerMessageDeflateFactory))
    print(f"Listening on port {server.sockets[0].getsockname()[1]}.", flush=True)
    await asyncio.Future()


asyncio.run(main())
