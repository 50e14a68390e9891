#!/usr/bin/env python3
"""The other end of credentials.Exchange, over an inherited socket of any style.

    exchange.py FD PID

says who it is on descriptor FD, learns who is at the other end, and prints that. It fails if that is
not process PID.
"""

import os
import socket
import struct
import sys

MESSAGE = b"fdkit identity 1"
UCRED = struct.Struct("=iII")  # pid, uid, gid


def exchange(sock):
    # Explicit credentials hold also if the other end asks for them only later. The kernel checks them.
    own = UCRED.pack(os.getpid(), os.getuid(), os.getgid())
    sock.sendmsg([MESSAGE], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, own)])

    # After the send, because a packet socket that asks binds itself to a name when it sends.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    got, sender = b"", None
    while len(got) < len(MESSAGE):
        data, control, _, _ = sock.recvmsg(len(MESSAGE) - len(got), socket.CMSG_SPACE(UCRED.size))
        if not data:
            raise EOFError("the other end is gone")
        for level, kind, value in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                stamp = UCRED.unpack(value)
                if sender not in (None, stamp):
                    raise ValueError("two writers")
                sender = stamp
        got += data
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    if got != MESSAGE or sender is None or sender[0] <= 0:  # pid 0 is nobody
        raise ValueError(f"received {got!r} from {sender}")
    return sender


with socket.socket(fileno=int(sys.argv[1])) as s:
    pid, uid, gid = exchange(s)
    print(f"pid {pid} uid {uid} gid {gid}", flush=True)
    sys.stdin.read()  # stay until the test has looked at us
    sys.exit(pid != int(sys.argv[2]))
