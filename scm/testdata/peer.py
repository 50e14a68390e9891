"""The other end of scm, in Python: descriptor 3 is one end of a pair.

send:  sends three files that hold their index, as one message.
echo:  receives one message and sends its descriptors back in reverse order.
creds: receives one message and answers with the pid and uid that the kernel stamped on it.
"""
import array
import os
import socket
import struct
import sys
import tempfile

pair = socket.socket(fileno=3)

if sys.argv[1] == "send":
    files = [tempfile.TemporaryFile() for _ in range(3)]
    for i, f in enumerate(files):
        f.write(b"file %d" % i)
        f.flush()
        f.seek(0)
    socket.send_fds(pair, [b"three files"], [f.fileno() for f in files])

elif sys.argv[1] == "echo":
    data, fds, flags, _ = socket.recv_fds(pair, 1000, 253)
    assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC), flags
    socket.send_fds(pair, [data.upper()], fds[::-1])

elif sys.argv[1] == "creds":
    pair.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    pair.send(b"ready")
    data, ancillary, _, _ = pair.recvmsg(1000, socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4 * 253))
    answer = b""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid, uid, _ = struct.unpack("iII", value)
            answer += b"pid %d uid %d" % (pid, uid)
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds = array.array("i")
            fds.frombytes(value)
            answer += b" with %d" % len(fds)
            for fd in fds:
                os.close(fd)
    pair.send(answer)
