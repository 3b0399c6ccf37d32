"""The demonstration's application in Python, with the standard library only. It dials in by itself.

usage: python3 conf/demo/app.py [HOST:PORT]
"""

import os
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler


class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # The connection stays open for the next request.
    disable_nagle_algorithm = True
    wbufsize = -1  # One segment for head and body.

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"hello from Python, process {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_GET

    def log_message(self, *arguments):
        pass


def dial_in(address):
    """Connects, sends the preamble, and answers requests until the connection is lost."""
    with socket.create_connection(address) as connection:
        # "swiftclient", an id of 12 bytes, and the length of the key: there is none.
        id = f"py{os.getpid():010}"
        connection.sendall(f"swiftclient{id}00".encode())
        print(f"dialled in as {id}", flush=True)
        Application(connection, address, None)


def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:30000").rsplit(":", 1)
    last = None
    while True:
        try:
            dial_in((host, int(port)))
            problem = "the connection was closed"
        except OSError as error:
            problem = error.strerror
        # Once is enough while there is no server.
        if problem != last:
            print(f"{host}:{port}: {problem}; trying again", flush=True)
        last = problem
        time.sleep(1)


try:
    main()
except KeyboardInterrupt:
    pass
