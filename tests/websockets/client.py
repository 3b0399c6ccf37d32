#!/usr/bin/env python3
"""Visits an application with WebSockets, many at once, and looks whether each gets its own echo.

    client.py HOST:PORT NAME [CERTIFICATE]      with TLS if there is a certificate to be trusted
"""

import os
import random
import socket
import ssl
import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ADDRESS, NAME, *TRUSTED = sys.argv[1:]
TLS = ssl.create_default_context(cafile=TRUSTED[0]) if TRUSTED else None


def visit(path):
    host, port = ADDRESS.rsplit(":", 1)
    raw = socket.create_connection((host, int(port)))
    scheme = "wss" if TLS else "ws"
    return connect(f"{scheme}://{NAME}{path}", sock=raw, ssl=TLS, max_size=None, open_timeout=60)


def check(websocket, message):
    websocket.send(message)
    answer = websocket.recv(timeout=60)
    assert answer == message, (answer[:80], message[:80])


def one(number):
    """Messages of all sizes, of two kinds, whole and in fragments, and an end by each side."""
    dice = random.Random(number)
    with visit(f"/{number}") as websocket:
        for size in [0, 1, 125, 126, 65535, 65536, dice.randrange(300_000)]:
            check(websocket, dice.randbytes(size))
        check(websocket, f"the {number}th, in text, ünd möre")
        parts = [dice.randbytes(dice.randrange(50_000)) for _ in range(5)]
        websocket.send(iter(parts))
        assert websocket.recv(timeout=60) == b"".join(parts)
        assert websocket.ping().wait(timeout=60)
    assert websocket.close_code == 1000, websocket.close_code
    with visit("/close") as websocket:
        websocket.send(f"close {4000 + number}")
        try:
            websocket.recv(timeout=60)
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 4000 + number, closed
        else:
            raise AssertionError("no end")


def much():
    """Messages that are larger than all buffers on the way."""
    with visit("/much") as websocket:
        for _ in range(8):
            check(websocket, os.urandom(4 << 20))


def main():
    failed = []

    def guarded(run, *arguments):
        try:
            run(*arguments)
        except BaseException as error:
            failed.append(f"{arguments}: {error!r}")

    threads = [threading.Thread(target=guarded, args=(one, number)) for number in range(20)]
    threads.append(threading.Thread(target=guarded, args=(much,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit("\n".join(failed))
    print("ok")


main()
