// A Node server that remembers each request it saw: `node node.mjs PORT CONTROL`.
// GET / at the control port tells what was seen since the last time, one JSON array, and lets a
// stream of events that waits go on.
import http from "node:http";

const [port, control] = process.argv.slice(2).map(Number);
let seen = [];
let waiting = null;

const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const body = Buffer.concat(parts).toString("latin1");
    seen.push({
      line: `${request.method} ${request.url} ${request.headers.host} ${body}`,
      headers: request.headers,
      trailers: request.trailers,
    });
    if (request.url === "/early") {
      response.writeEarlyHints({ link: "</a.css>; rel=preload" });
    }
    if (request.url === "/late") {
      response.writeHead(200, { trailer: "x-sum" });
      response.addTrailers({ "x-sum": "7", "set-cookie": "a=b" });
      response.end("late");
      return;
    }
    if (request.url === "/events") {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: one\n\n");
      waiting = response;
      return;
    }
    if (request.url === "/nothing") {
      response.writeHead(204);
      response.end();
      return;
    }
    response.end("ok");
  });
});
server.on("checkContinue", (request, response) => {
  response.writeContinue();
  server.emit("request", request, response);
});
server.listen(port, "127.0.0.1");
http
  .createServer((_, response) => {
    response.end(JSON.stringify(seen));
    seen = [];
    waiting?.end("data: two\n\n");
    waiting = null;
  })
  .listen(control, "127.0.0.1");
