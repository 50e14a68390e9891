/* The other end of credentials.Exchange, over an inherited socket of any style:
 *
 *     exchange FD PID
 *
 * says who it is on descriptor FD, learns who is at the other end, and prints that. It fails if that
 * is not process PID. */

#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char message[] = "fdkit identity 1"; /* without the NUL */

static struct ucred exchange(int fd)
{
	char data[sizeof message - 1];
	union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(struct ucred))]; } control = {0};
	struct iovec iov = { (char *)message, sizeof data };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	struct ucred peer = { getpid(), getuid(), getgid() };
	int on = 1;

	/* Explicit credentials hold also if the other end asks for them only later. The kernel checks them. */
	control.header = (struct cmsghdr){ CMSG_LEN(sizeof peer), SOL_SOCKET, SCM_CREDENTIALS };
	memcpy(CMSG_DATA(&control.header), &peer, sizeof peer);
	if (sendmsg(fd, &m, MSG_NOSIGNAL) != sizeof data)
		err(1, "sendmsg");

	/* After the send, because a packet socket that asks binds itself to a name when it sends. */
	if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
		err(1, "setsockopt");
	iov.iov_base = data;
	m.msg_controllen = sizeof control;
	if (recvmsg(fd, &m, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof data || memcmp(data, message, sizeof data) != 0)
		errx(1, "the other end is gone or does not speak the exchange");
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (c == NULL || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS || m.msg_flags & MSG_CTRUNC)
		errx(1, "no credentials, or something besides them");
	memcpy(&peer, CMSG_DATA(c), sizeof peer);
	if (peer.pid <= 0) /* nobody */
		errx(1, "nobody has sent it");
	return peer;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: exchange FD PID");
	struct ucred peer = exchange(atoi(argv[1]));
	printf("pid %d uid %u gid %u\n", peer.pid, peer.uid, peer.gid);
	fflush(stdout);
	while (getchar() != EOF) /* stay until the test has looked at us */
		;
	return peer.pid != atoi(argv[2]);
}
