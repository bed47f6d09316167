# A ZeroMQ socket of libzmq: peer.py PUSH|PUB|XPUB|REQ|DEALER bind|connect ENDPOINT [OPTION=NUMBER…]
# Prints the endpoint, then each message that comes; sends each line that it
# reads. A message is its parts in hexadecimal, with commas between.
import sys, threading
import zmq

kind, way, endpoint = sys.argv[1:4]
socket = zmq.Context().socket(getattr(zmq, kind))
for option in sys.argv[4:]:
    name, _, value = option.partition("=")
    socket.setsockopt(getattr(zmq, name), int(value))
getattr(socket, way)(endpoint)
print(socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode(), flush=True)

own = zmq.Context.instance()
lines = own.socket(zmq.PAIR)
lines.bind("inproc://lines")


def read():
    out = own.socket(zmq.PAIR)
    out.connect("inproc://lines")
    for line in sys.stdin:
        out.send(line.strip().encode())
    out.send(b"end")


threading.Thread(target=read, daemon=True).start()
poller = zmq.Poller()
poller.register(lines, zmq.POLLIN)
if kind not in ("PUSH", "PUB"):
    poller.register(socket, zmq.POLLIN)
while True:
    for ready, _ in poller.poll():
        if ready is lines:
            line = lines.recv()
            if line == b"end":
                socket.close(linger=2000)
                own.destroy(0)
                sys.exit(0)
            socket.send_multipart([bytes.fromhex(part) for part in line.decode().split(",")])
        else:
            print(",".join(part.hex() for part in socket.recv_multipart()), flush=True)
