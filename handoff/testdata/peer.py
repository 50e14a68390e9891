#!/usr/bin/env python3
"""The other side of a handoff, from docs/protocol.md alone.

    peer.py predecessor|successor [versions=1-1] [abort=REASON] [hold=STEP]

Descriptor 3 is a connected AF_UNIX socket, stream or SOCK_SEQPACKET. The predecessor has a TCP
listener and the state "python's state"; the successor accepts one connection and answers it. Each
step is printed. abort: the successor gives up, with a reason. hold: wait for ever at that step.
"""
import os
import select
import socket
import struct
import sys
import time

HELLO, MANIFEST, ITEMS, ACK, OFFERED, ADOPTED, STATE, READY, COMMIT, SERVING, RELEASED, DONE, ABORT, ABORTED = range(1, 15)
VERSIONS, NAME, GENERATION, COUNT, ITEM, KIND, BACKLOG, META, UNREAD, DATA, REASON = range(1, 12)
LISTENER = b"\1"
HEADER, RECORD, UCRED = struct.Struct(">BBHI"), struct.Struct(">HI"), struct.Struct("=iII")
options = dict(a.split("=", 1) for a in sys.argv[2:])


class Dead(Exception):
    """The other process is."""


def record(tag, value):
    return RECORD.pack(tag, len(value)) + value


def records(data):
    while data:
        tag, size = RECORD.unpack_from(data)
        yield tag, data[6:6 + size]
        data = data[6 + size:]


def step(name):
    print(name, flush=True)
    while options.get("hold") == name:
        time.sleep(60)


class Channel:
    def __init__(self, sock):
        self.sock, self.data, self.fds = sock, b"", []
        # Who is there: each sends 16 bytes with explicit credentials, then asks for the other's.
        own = UCRED.pack(os.getpid(), os.getuid(), os.getgid())
        sock.sendmsg([b"fdkit identity 1"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, own)])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        data, control, _, _ = sock.recvmsg(16, socket.CMSG_SPACE(UCRED.size), socket.MSG_WAITALL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        pid, uid, _ = UCRED.unpack(control[0][2])
        if data != b"fdkit identity 1" or pid <= 0 or uid not in (0, os.getuid()):
            raise PermissionError(f"{data!r} from process {pid} of user {uid}")
        self.pidfd = os.pidfd_open(pid)

    def send(self, kind, *payload, fds=()):
        frame = HEADER.pack(kind, 0, len(fds), len(b"".join(payload))) + b"".join(payload)
        sent = socket.send_fds(self.sock, [frame], fds) if fds else self.sock.send(frame)
        if sent < len(frame):  # of a stream
            self.sock.sendall(frame[sent:])

    def receive(self, *kinds, timeout=30):
        """Returns the first frame of these kinds, as (kind, payload, fds); others are skipped."""
        while True:
            size = 8 + HEADER.unpack_from(self.data)[3] if len(self.data) >= 8 else 8
            if len(self.data) < size:
                # What is there to be read is older than a death.
                readable = select.select([self.sock, self.pidfd], [], [], timeout)[0]
                if not readable:
                    raise TimeoutError
                data, fds = b"", []
                if self.sock in readable:
                    try:
                        data, fds, _, _ = socket.recv_fds(self.sock, 8 + 60 * 1024, 253, socket.MSG_CMSG_CLOEXEC)
                    except ConnectionResetError:
                        continue  # once, and SOCK_SEQPACKET says so before what is queued
                if not data:  # the end of the channel is no death: that is what the pidfd says
                    if not select.select([self.pidfd], [], [], timeout)[0]:
                        raise TimeoutError
                    raise Dead
                self.data, self.fds = self.data + data, self.fds + fds
                continue
            kind, _, nfds, _ = HEADER.unpack_from(self.data)
            payload, self.data = self.data[8:size], self.data[size:]
            fds, self.fds = self.fds[:nfds], self.fds[nfds:]
            if kind in kinds:
                return kind, payload, fds
            for fd in fds:
                os.close(fd)
            if kind in (ABORT, ABORTED):
                sys.exit("the other side: " + b"".join(v for _, v in records(payload)).decode())

    def hello(self, name, generation):
        oldest, newest = map(int, options.get("versions", "1-1").split("-"))
        self.send(HELLO, record(VERSIONS, struct.pack(">HH", oldest, newest)), record(NAME, name),
                  record(GENERATION, struct.pack(">Q", generation)))
        theirs = dict(records(self.receive(HELLO)[1]))
        low, high = struct.unpack(">HH", theirs[VERSIONS])
        if max(low, oldest) > min(high, newest) or theirs[NAME] != name:
            step("refused")
            try:
                self.send(ABORT, record(REASON, b"another version or service"))
                self.receive(ABORT, ABORTED, timeout=1)
            except (Dead, OSError):
                pass  # it has said so first, and left
            sys.exit()


def predecessor(ch):
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    ch.hello(b"web", 7)
    ch.send(MANIFEST, record(COUNT, struct.pack(">I", 1)))
    ch.send(ITEMS, record(ITEM, record(NAME, b"http") + record(KIND, LISTENER) + record(META, b"py")), fds=[listener.fileno()])
    while struct.unpack(">I", dict(records(ch.receive(ACK)[1]))[COUNT])[0] < 1:
        pass
    ch.send(OFFERED)
    ch.receive(ADOPTED)
    step("adopted")
    ch.receive(READY, timeout=60)
    step("ready")  # a real one stops accepting here
    ch.send(STATE, record(DATA, b"python's "))
    ch.send(STATE, record(DATA, b"state"))
    ch.send(COMMIT)
    try:
        ch.receive(SERVING, timeout=30)  # at the timeout a real one kills, and waits for the death
        step("serving")
        ch.receive(RELEASED, timeout=0.2)
    except TimeoutError:
        pass  # the probation is over
    except Dead:
        return step("took back")
    ch.send(DONE)
    step("done")


def successor(ch):
    ch.hello(b"web", 0)
    count = struct.unpack(">I", dict(records(ch.receive(MANIFEST)[1]))[COUNT])[0]
    items = []
    while len(items) < count:
        _, payload, fds = ch.receive(ITEMS)
        items += [(dict(records(v)), fd) for (_, v), fd in zip(records(payload), fds)]
        ch.send(ACK, record(COUNT, struct.pack(">I", len(items))))
    ch.receive(OFFERED)
    listener = next(socket.socket(fileno=fd) for item, fd in items if item[KIND] == LISTENER)
    listener.settimeout(30)  # the mode is shared with the predecessor: it stays nonblocking
    ch.send(ADOPTED)
    step("adopted")
    if "abort" in options:
        ch.send(ABORT, record(REASON, options["abort"].encode()))
        ch.receive(ABORTED)
        return step("aborted")
    state, kind = b"", None
    try:
        ch.send(READY)
        while kind != COMMIT:
            kind, payload, _ = ch.receive(STATE, COMMIT)
            state += b"".join(v for tag, v in records(payload) if tag == DATA)
        step("commit")
        ch.send(SERVING)
        step("serving")
    except (Dead, BrokenPipeError):
        step("alone")
    with listener.accept()[0] as conn:
        conn.sendall(b"python has " + state)
    ch.receive(DONE)
    step("done")


with socket.socket(fileno=3) as sock:
    globals()[sys.argv[1]](Channel(sock))
