/* The other end of scm, in C: descriptor 3 is one end of a pair. It receives one message and sends
 * its descriptors back in reverse order, the data in upper case, as peer.py echo does. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

int main(void)
{
	char data[1000];
	union {
		char buf[CMSG_SPACE(sizeof(int) * 253)];
		struct cmsghdr align;
	} control;
	struct iovec iov = { data, sizeof data };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf };

	ssize_t n = recvmsg(3, &msg, MSG_CMSG_CLOEXEC);
	if (n < 0) {
		perror("recvmsg");
		return 1;
	}
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		fprintf(stderr, "truncated: %#x\n", msg.msg_flags);
		return 1;
	}
	for (ssize_t i = 0; i < n; i++)
		data[i] = toupper((unsigned char)data[i]);
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS) {
		fprintf(stderr, "no descriptors\n");
		return 1;
	}
	size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	int fds[253];
	memcpy(fds, CMSG_DATA(cmsg), count * sizeof(int));
	for (size_t i = 0; i < count / 2; i++) {
		int fd = fds[i];
		fds[i] = fds[count - 1 - i];
		fds[count - 1 - i] = fd;
	}
	memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
	iov.iov_len = n;
	msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
	if (sendmsg(3, &msg, MSG_NOSIGNAL) != n) {
		perror("sendmsg");
		return 1;
	}
	return 0;
}
