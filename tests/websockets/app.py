#!/usr/bin/env python3
"""An application that echoes what comes through a WebSocket, and answers other requests with their paths.

    app.py dial HOST:PORT COUNT     dials in with so many connections, each again as soon as it is used up
    app.py serve                    listens on a port of its own, which it prints
"""

import asyncio
import http
import logging
import socket
import sys
import threading

from websockets.asyncio.server import serve
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol


async def echo(connection):
    """Runs on a connection of the library's own."""
    async for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            await connection.close(int(message[6:]), "as you wish")
            return
        await connection.send(message)


def answer(connection, request):
    """Lets WebSockets pass."""
    if "Upgrade" not in request.headers:
        return connection.respond(http.HTTPStatus.OK, request.path)


class Dialled:
    """One connection that dialled in; the library does the protocol, this the socket."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.sendall(b"swiftclient0000000000ee00")

    def run(self):
        """Answers requests until one of them becomes a WebSocket, and that until its end."""
        while head := self.head():
            if b"\r\nupgrade: websocket\r\n" in head.lower():
                self.websocket(head)
                return
            path = head.split(b" ")[1]
            length = f"Content-Length: {len(path)}".encode()
            self.socket.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n" + path)

    def head(self):
        """The head of a request without a body."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            # Nothing may come behind the head before it is answered.
            block = self.socket.recv(65536)
            if not block:
                return None
            head += block
        return head

    def websocket(self, head):
        """Speaks the protocol behind the head of a request."""
        protocol = ServerProtocol(max_size=None)
        protocol.receive_data(head)
        [request] = protocol.events_received()
        protocol.send_response(protocol.accept(request))
        message, text = b"", False
        while True:
            for data in protocol.data_to_send():
                if data:
                    self.socket.sendall(data)
                else:
                    self.socket.shutdown(socket.SHUT_WR)
            block = self.socket.recv(65536)
            if block:
                protocol.receive_data(block)
            else:
                protocol.receive_eof()
            for frame in protocol.events_received():
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                    message, text = b"", frame.opcode is Opcode.TEXT
                if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    continue
                message += frame.data
                if frame.fin and protocol.state is State.OPEN:
                    self.reply(protocol, message, text)
            if not block:
                return

    def reply(self, protocol, message, text):
        if not text:
            protocol.send_binary(message)
        elif message.startswith(b"close "):
            protocol.send_close(int(message[6:]), "as you wish")
        else:
            protocol.send_text(message)


def dial(address):
    while True:
        try:
            connection = Dialled(address)
        except ConnectionError:
            return
        try:
            with connection.socket:
                connection.run()
        except ConnectionError:
            pass


async def listen():
    # A connection that only checks whether the port is open gets no page.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    async with serve(echo, "127.0.0.1", 0, process_request=answer, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


def main():
    match sys.argv[1:]:
        case ["dial", address, count]:
            threads = [threading.Thread(target=dial, args=(address,)) for _ in range(int(count))]
            for thread in threads:
                thread.start()
        case ["serve"]:
            asyncio.run(listen())
        case _:
            sys.exit(__doc__)


main()
