"""Serves our client with websockets, on a port that it prints."""

import asyncio
from http import HTTPStatus

# The newer interface of the package is not everywhere yet.
from websockets.exceptions import ConnectionClosed
from websockets.legacy.server import serve


async def refuse(path, headers):
    if path == "/dogs":
        return HTTPStatus.FORBIDDEN, [("Cat", "Felix")], b"No dogs here."
    return None


async def fragments(ws):
    """Yields the fragments of a message, with a ping between them."""
    yield "frag"
    await (await ws.ping("purr"))
    yield "mented"


async def answer(ws, message):
    command, *rest = message.split(" ", 2) if isinstance(message, str) else [None]
    if command == "request":
        h = ws.request_headers
        parts = [ws.path, ws.subprotocol, *(h.get(name) for name in ["Cookie", "Cat", "Authorization"])]
        await ws.send(", ".join(part or "" for part in parts))
    elif command == "fragments":
        await ws.send(fragments(ws))
    elif command == "close":
        await ws.close(int(rest[0]), rest[1])
    elif isinstance(message, str):
        await ws.send(message + ", meow.")
    else:
        await ws.send(message + b", meow.")


async def talk(ws):
    try:
        await ws.send("Do you read me, Lieutenant Bowie?")
        async for message in ws:
            await answer(ws, message)
    except ConnectionClosed:
        pass
    # The code is that of the client's close frame, or 1006 if none has come.
    print(f"closed {ws.close_code} {ws.close_reason}", flush=True)


async def main():
    server = await serve(
        talk,
        "127.0.0.1",
        0,
        subprotocols=["meow", "purr"],
        process_request=refuse,
        extra_headers=[("Set-Cookie", "tail=long")],
    )
    print(f"Listening on port {server.sockets[0].getsockname()[1]}.", flush=True)
    await asyncio.Future()


asyncio.run(main())
