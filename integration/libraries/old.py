# An origin made with gripcontrol and pubcontrol for Python. It says where it
# listens, and publishes what it is told: CHANNEL KIND TEXT, line by line.
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gripcontrol import (
    Channel, GripPubControl, HttpResponseFormat, HttpStreamFormat, Response, WebSocketContext, WebSocketEvent,
    WebSocketMessageFormat, create_grip_channel_header, create_hold_response, create_hold_stream,
    decode_websocket_events, encode_websocket_events, parse_grip_uri, validate_sig,
)
from pubcontrol import Item

publisher = GripPubControl(parse_grip_uri(os.environ["GRIP_URL"]))


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, status, headers, body):
        if isinstance(body, str):
            body = body.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if not validate_sig(self.headers.get("Grip-Sig", ""), os.environ["VERIFY_KEY"]):
            self.answer(403, {}, "come through the gateway\n")
        elif self.path == "/stream":
            instruct = create_hold_stream("news", Response(headers={"X-From": "python"}, body="hello\n"))
            self.answer(200, {"Content-Type": "application/grip-instruct"}, instruct)
        elif self.path == "/poll":
            instruct = create_hold_response("news", Response(body="nothing new\n"), timeout=30)
            self.answer(200, {"Content-Type": "application/grip-instruct"}, instruct)
        elif self.path == "/headers":
            channels = create_grip_channel_header([Channel("news"), Channel("more")])
            self.answer(200, {"Grip-Hold": "stream", "Grip-Channel": channels}, "hello\n")
        else:
            self.answer(404, {}, "")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/chat" or not validate_sig(self.headers.get("Grip-Sig", ""), os.environ["VERIFY_KEY"]):
            self.answer(403, {}, "")
            return
        meta = {name[5:].lower(): value for name, value in self.headers.items() if name.lower().startswith("meta-")}
        ws = WebSocketContext(self.headers["Connection-Id"], meta, decode_websocket_events(body))
        if ws.is_opening():
            ws.accept()
            ws.subscribe("news")
            ws.meta["name"] = "ann"
            ws.send("welcome")
        while ws.can_recv():
            message = ws.recv()
            if message is None:
                ws.close()
                break
            if message == "bye":
                ws.close(4000)
            else:
                ws.send("%s: %s" % (ws.orig_meta["name"], message))
        headers = {"Content-Type": "application/websocket-events"}
        events = []
        if ws.accepted:
            headers["Sec-WebSocket-Extensions"] = "grip"
            events.append(WebSocketEvent("OPEN"))
        for name, value in ws.meta.items():
            headers["Set-Meta-" + name] = value
        events.extend(ws.out_events)
        if ws.closed:
            events.append(WebSocketEvent("CLOSE", ws.out_close_code.to_bytes(2, "big")))
        self.answer(200, headers, encode_websocket_events(events))


FORMATS = {
    "stream": lambda text: HttpStreamFormat(text + "\n"),
    "response": lambda text: HttpResponseFormat(code=201, reason="Told", headers={"X-Push": "python"}, body=text + "\n"),
    "message": lambda text: WebSocketMessageFormat(text),
    "close": lambda text: HttpStreamFormat(close=True),
}

server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("listening", flush=True)
for line in sys.stdin:
    channel, kind, *text = line.rstrip("\n").split(" ")
    try:
        publisher.publish(channel, Item(FORMATS[kind](" ".join(text))), blocking=True)
        print("published true 200", flush=True)
    except ValueError as error:
        print("published false", "401" if "401" in str(error) else error, flush=True)
