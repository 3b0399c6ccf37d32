#!/usr/bin/env python3
"""Visits an application with WebSockets, many at once, and looks whether each gets its own echo.

    client.py HOST:PORT NAME [CERTIFICATE]      with TLS if there is a certificate to be trusted
"""

import asyncio
import os
import random
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

ADDRESS, NAME, *TRUSTED = sys.argv[1:]
TLS = ssl.create_default_context(cafile=TRUSTED[0]) if TRUSTED else None
PATIENCE = 60


def visit(path):
    host, port = ADDRESS.rsplit(":", 1)
    uri = f"{'wss' if TLS else 'ws'}://{NAME}{path}"
    return connect(uri, host=host, port=int(port), ssl=TLS, max_size=None, open_timeout=PATIENCE, close_timeout=PATIENCE)


async def check(websocket, message):
    await websocket.send(message)
    answer = await asyncio.wait_for(websocket.recv(), PATIENCE)
    assert answer == message, (answer[:80], message[:80])


async def one(number):
    """Messages of all sizes, of two kinds, whole and in fragments, and an end by each side."""
    dice = random.Random(number)
    async with visit(f"/{number}") as websocket:
        for size in [0, 1, 125, 126, 65535, 65536, dice.randrange(300_000)]:
            await check(websocket, dice.randbytes(size))
        await check(websocket, f"the {number}th, in text, ünd möre")
        parts = [dice.randbytes(dice.randrange(50_000)) for _ in range(5)]
        await websocket.send(iter(parts))
        assert await asyncio.wait_for(websocket.recv(), PATIENCE) == b"".join(parts)
        await asyncio.wait_for(await websocket.ping(), PATIENCE)
    assert websocket.close_code == 1000, websocket.close_code
    async with visit("/close") as websocket:
        await websocket.send(f"close {4000 + number}")
        try:
            await asyncio.wait_for(websocket.recv(), PATIENCE)
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 4000 + number, closed
        else:
            raise AssertionError("no end")


async def much():
    """More than all buffers on the way, both ways at once."""
    block = os.urandom(1 << 20)
    async with visit("/much") as websocket:

        async def send():
            for _ in range(32):
                await websocket.send(block)

        sending = asyncio.create_task(send())
        for _ in range(32):
            assert await asyncio.wait_for(websocket.recv(), PATIENCE) == block
        await sending


async def main():
    runs = [*map(one, range(20)), much()]
    results = await asyncio.gather(*runs, return_exceptions=True)
    failed = [f"{number}: {result!r}" for number, result in enumerate(results) if result]
    sys.exit("\n".join(failed)) if failed else print("ok")


asyncio.run(main())
