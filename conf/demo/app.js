// The demonstration's application in JavaScript, with Node's own modules only. It dials in by itself.
//
// usage: node conf/demo/app.js [HOST:PORT]

const http = require("http");
const net = require("net");

const [host, port] = (process.argv[2] || "127.0.0.1:30000").split(/:(?=\d+$)/);

// An ordinary server, except that it listens nowhere: it gets the connection that we make.
const server = http.createServer((request, response) => {
  request.resume();
  response.setHeader("Content-Type", "text/plain");
  response.end(`hello from Node, process ${process.pid}\n`);
});
// The connection waits for the next request as long as it takes.
server.keepAliveTimeout = 0;

let last;

function dialIn() {
  const socket = net.connect(port, host, () => {
    // "swiftclient", an id of 12 bytes, and the length of the key: there is none.
    const id = `js${String(process.pid).padStart(10, "0")}`;
    socket.write(`swiftclient${id}00`);
    console.log(`dialled in as ${id}`);
    server.emit("connection", socket);
  });
  socket.setNoDelay();
  let problem = "the connection was closed";
  socket.on("error", (error) => { problem = error.message; });
  socket.on("close", () => {
    // Once is enough while there is no server.
    if (problem !== last) console.log(`${host}:${port}: ${problem}; trying again`);
    last = problem;
    setTimeout(dialIn, 1000);
  });
}

dialIn();
