/* The C side of the benchmarks: what a program without a library does, in loops of system calls.

	side MODE STYLE COUNT

reads numbers of operations from its standard input, a line each, does so many, and answers with the
nanoseconds that they took. STYLE is a number of <sys/socket.h>, COUNT the descriptors in a message. A second
thread sleeps, as servers have threads, and the kernel counts references differently without one. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <arpa/inet.h>
#include <linux/types.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

#define MAX 253  /* descriptors in a message, SCM_MAX_FD */
#define BATCH 8  /* messages in a system call */
#define ROOM 2048

static int style, count;
static int ends[2];
static int files[MAX];

static void die(const char *what) {
	if (errno == EPIPE || errno == ECONNRESET) exit(1); /* the other process has ended */
	perror(what);
	exit(1);
}

static long long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* --- one message --- */

struct message {
	struct iovec iov;
	char data[8];
	char control[ROOM] __attribute__((aligned(8)));
};

static void prepare(struct msghdr *h, struct message *m) {
	memset(h, 0, sizeof *h);
	m->iov.iov_base = m->data;
	m->iov.iov_len = 1;
	h->msg_iov = &m->iov;
	h->msg_iovlen = 1;
	h->msg_control = m->control;
}

static void to_send(struct msghdr *h, struct message *m) {
	prepare(h, m);
	h->msg_controllen = CMSG_SPACE(sizeof(int) * count);
	struct cmsghdr *c = CMSG_FIRSTHDR(h);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(c), files, sizeof(int) * count);
}

static void to_receive(struct msghdr *h, struct message *m) {
	prepare(h, m);
	m->iov.iov_len = sizeof m->data;
	h->msg_controllen = sizeof m->control;
}

static int *received(struct msghdr *h) {
	struct cmsghdr *c = CMSG_FIRSTHDR(h);
	if (h->msg_flags & MSG_CTRUNC || c == NULL || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int) * count)) {
		fprintf(stderr, "not the descriptors that were sent\n");
		exit(1);
	}
	return (int *)CMSG_DATA(c);
}

static void send_one(int fd) {
	static __thread struct message m;
	struct msghdr h;
	to_send(&h, &m);
	if (sendmsg(fd, &h, MSG_NOSIGNAL) != 1) die("sendmsg");
}

/* receive_one returns 0 at the end of the connection. */
static int receive_one(int fd) {
	static __thread struct message m;
	struct msghdr h;
	to_receive(&h, &m);
	ssize_t n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC);
	if (n == 0 || (n < 0 && errno == ECONNRESET)) return 0;
	if (n < 0) die("recvmsg");
	int *fds = received(&h);
	for (int i = 0; i < count; i++) close(fds[i]);
	return 1;
}

static void send_batch(int fd) {
	static struct message m[BATCH];
	struct mmsghdr h[BATCH];
	for (int i = 0; i < BATCH; i++) to_send(&h[i].msg_hdr, &m[i]);
	for (int done = 0; done < BATCH;) {
		int n = sendmmsg(fd, h + done, BATCH - done, MSG_NOSIGNAL);
		if (n < 0) die("sendmmsg");
		done += n;
	}
}

/* receive_batch returns how many messages came. */
static int receive_batch(int fd) {
	static struct message m[BATCH];
	struct mmsghdr h[BATCH];
	for (int i = 0; i < BATCH; i++) to_receive(&h[i].msg_hdr, &m[i]);
	int n = recvmmsg(fd, h, BATCH, MSG_CMSG_CLOEXEC | MSG_WAITFORONE, NULL);
	if (n < 0) die("recvmmsg");
	int first = -1, last = -1;
	for (int i = 0; i < n; i++) {
		if (h[i].msg_len == 0) return i;
		int *fds = received(&h[i].msg_hdr);
		for (int j = 0; j < count; j++) {
			if (fds[j] == last + 1 && first >= 0) {
				last++;
				continue;
			}
			if (first >= 0) syscall(SYS_close_range, first, last, 0);
			first = last = fds[j];
		}
	}
	if (first >= 0) syscall(SYS_close_range, first, last, 0);
	return n;
}

static void same(long n) {
	while (n-- > 0) {
		send_one(ends[0]);
		receive_one(ends[1]);
	}
}

static void batches(long n) {
	for (; n > 0; n -= BATCH) {
		send_batch(ends[0]);
		for (int done = 0; done < BATCH;) done += receive_batch(ends[1]);
	}
}

/* --- two threads, two processes --- */

static void *answer(void *unused) {
	(void)unused;
	while (receive_one(ends[1])) send_one(ends[1]);
	return NULL;
}

static void ping(long n) {
	while (n-- > 0) {
		send_one(ends[0]);
		receive_one(ends[0]);
	}
}

static void take(long n) {
	while (n-- > 0)
		if (!receive_one(ends[0])) die("the sender has ended");
}

static void take_batches(long n) {
	while (n > 0) {
		int got = receive_batch(ends[0]);
		if (got == 0) die("the sender has ended");
		n -= got;
	}
}

static void *sleeper(void *unused) {
	for (;;) pause();
	return unused;
}

static void second_thread(void *(*f)(void *)) {
	pthread_t t;
	if (pthread_create(&t, NULL, f, NULL)) die("pthread_create");
}

/* in_child runs f in another process, which ends with this one. */
static void in_child(void (*f)(void)) {
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid < 0) die("fork");
	if (pid > 0) {
		close(ends[1]);
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) _exit(0);
	close(ends[0]);
	second_thread(sleeper);
	f();
	_exit(0);
}

static void echo(void) { answer(NULL); }

static void flood(void) {
	for (;;) send_one(ends[1]);
}

static void flood_batches(void) {
	for (;;) send_batch(ends[1]);
}

/* --- pairs and identities --- */

static void pairs(long n) {
	while (n-- > 0) {
		int fds[2];
		if (socketpair(AF_UNIX, style | SOCK_CLOEXEC, 0, fds)) die("socketpair");
		close(fds[0]);
		close(fds[1]);
	}
}

static void peer(long n) {
	while (n-- > 0) {
		struct ucred c;
		socklen_t size = sizeof c;
		if (getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &c, &size)) die("getsockopt");
	}
}

/* What PIDFD_GET_INFO fills, as far as it is used. */
struct info {
	uint64_t mask, cgroup;
	uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
	int32_t exit_code;
	uint32_t coredump, spare;
	uint64_t more[2];
};

#define GET_INFO 0xc058ff0bUL

static int ask(int fd, int option) {
	int value = 0;
	socklen_t size = sizeof value;
	if (getsockopt(fd, SOL_SOCKET, option, &value, &size)) die("getsockopt");
	return value;
}

static void set(int fd, int option, int value) {
	if (setsockopt(fd, SOL_SOCKET, option, &value, sizeof value)) die("setsockopt");
}

/* exchange does what credentials.Exchange promises: a socket of the right kind, a stamped message each way,
the writer pinned, the stamp compared with the process, the options as they were. */
static void exchange(int fd) {
	if (ask(fd, SO_DOMAIN) != AF_UNIX || ask(fd, SO_ACCEPTCONN)) exit(1);
	struct message m;
	struct msghdr h;
	prepare(&h, &m);
	char hello[16] = "fdkit identity 1", got[16];
	m.iov.iov_base = hello;
	m.iov.iov_len = sizeof hello;
	h.msg_controllen = CMSG_SPACE(sizeof(struct ucred));
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_CREDENTIALS;
	c->cmsg_len = CMSG_LEN(sizeof(struct ucred));
	struct ucred own = {getpid(), getuid(), getgid()};
	memcpy(CMSG_DATA(c), &own, sizeof own);
	if (sendmsg(fd, &h, MSG_NOSIGNAL) != sizeof hello) die("sendmsg");

	ask(fd, SO_TYPE);
	int cred = ask(fd, SO_PASSCRED);
	set(fd, SO_PASSCRED, 1);
	int pidfd = ask(fd, SO_PASSPIDFD);
	if (!pidfd) set(fd, SO_PASSPIDFD, 1);
	to_receive(&h, &m);
	m.iov.iov_base = got;
	m.iov.iov_len = sizeof got;
	if (recvmsg(fd, &h, MSG_CMSG_CLOEXEC) != sizeof got || memcmp(hello, got, sizeof got)) die("recvmsg");
	struct ucred who = {0, -1, -1};
	int writer = -1;
	for (c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c)) {
		if (c->cmsg_type == SCM_CREDENTIALS) memcpy(&who, CMSG_DATA(c), sizeof who);
		if (c->cmsg_type == SCM_PIDFD) memcpy(&writer, CMSG_DATA(c), sizeof writer);
	}
	struct info info = {.mask = 0xf};
	if (writer >= 0 && ioctl(writer, GET_INFO, &info) == 0 && (info.ruid != who.uid || info.rgid != who.gid)) exit(1);
	if (!cred) set(fd, SO_PASSCRED, 0);
	if (!pidfd) set(fd, SO_PASSPIDFD, 0);
	if (writer >= 0) close(writer);
}

static void exchange_for_ever(void) {
	for (;;) exchange(ends[1]);
}

static void exchanges(long n) {
	while (n-- > 0) exchange(ends[0]);
}

/* --- many sockets move to another process ---

	side hand KIND COUNT PATH        KIND is 0 for connections, 1 for listeners
	side receive KIND GROW PATH

hand prints the port of a listener at 127.1.0.0 and accepts COUNT connections there, or makes COUNT listeners, and is ready. For each number N on its standard
input it accepts a receiver at PATH, passes the first N on, and prints the moment at which it began. receive
grows its descriptor table first, connects, and prints the moments at which all had arrived and were acknowledged,
the first one was served, and the last. It is started by somebody else, because a process inherits the size of
its descriptor table. */

static int *sockets;

/* Each has an address of its own, or the search for a free port takes long. */
static int listener(int i) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010000 + i)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) die("listen");
	return fd;
}

static void some(int fd, int *fds, int n, int total) {
	union {
		char room[CMSG_SPACE(sizeof(int) * MAX)];
		struct cmsghdr align;
	} u;
	struct iovec iov = {&total, sizeof total};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.room, .msg_controllen = CMSG_SPACE(sizeof(int) * n)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * n);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	if (sendmsg(fd, &h, MSG_NOSIGNAL) < 0) die("sendmsg");
}

static int named(const char *path, struct sockaddr_un *a) {
	memset(a, 0, sizeof *a);
	a->sun_family = AF_UNIX;
	snprintf(a->sun_path, sizeof a->sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0) die("socket");
	return fd;
}

static void pass_on(int path, int n) {
	int to = accept4(path, NULL, NULL, SOCK_CLOEXEC);
	if (to < 0) die("accept");
	long long begin = now();
	for (int sent = 0; sent < n;) {
		int k = n - sent < MAX ? n - sent : MAX;
		some(to, sockets + sent, k, n);
		sent += k;
	}
	char acknowledged;
	if (read(to, &acknowledged, 1) != 1) die("waiting for the acknowledgement");
	close(to);
	printf("%lld\n", begin);
	fflush(stdout);
}

static int hand(const char *path) {
	sockets = calloc(count, sizeof *sockets);
	int ln = listener(0);
	struct sockaddr_in a;
	socklen_t size = sizeof a;
	if (getsockname(ln, (struct sockaddr *)&a, &size)) die("getsockname");
	struct sockaddr_un name;
	int receivers = named(path, &name);
	if (bind(receivers, (struct sockaddr *)&name, sizeof name) || listen(receivers, 1)) die(path);
	printf("%d\n", ntohs(a.sin_port));
	fflush(stdout);
	for (int i = 0; i < count; i++)
		if ((sockets[i] = style ? listener(i) : accept4(ln, NULL, NULL, SOCK_CLOEXEC)) < 0) die("accept");
	second_thread(sleeper);
	printf("ready\n");
	fflush(stdout);
	for (int n; scanf("%d", &n) == 1;) pass_on(receivers, n);
	return 0;
}

static int receiver(const char *path) {
	struct sockaddr_un name;
	int from = named(path, &name);
	second_thread(sleeper);
	if (count > 0) close(fcntl(from, F_DUPFD_CLOEXEC, count + 64));
	if (connect(from, (struct sockaddr *)&name, sizeof name)) die(path);
	int *got = NULL;
	int n = 0, total = 1;
	while (n < total) {
		union {
			char room[CMSG_SPACE(sizeof(int) * MAX)];
			struct cmsghdr align;
		} u;
		struct iovec iov = {&total, sizeof total};
		struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u};
		if (recvmsg(from, &h, MSG_CMSG_CLOEXEC) != sizeof total) die("recvmsg");
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);
		if (h.msg_flags & MSG_CTRUNC || c == NULL) die("descriptors were lost");
		if (got == NULL && (got = malloc(total * sizeof *got)) == NULL) die("malloc");
		int k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(got + n, CMSG_DATA(c), k * sizeof(int));
		n += k;
	}
	if (write(from, "a", 1) != 1) die("write");
	long long at[3] = {now()};
	for (int i = 0; i < n; i++) {
		char byte;
		if (style == 0 && (recv(got[i], &byte, 1, 0) != 1 || send(got[i], &byte, 1, MSG_NOSIGNAL) != 1)) die("serve");
		if (i == 0) at[1] = now();
	}
	at[2] = now();
	printf("%lld %lld %lld\n", at[0], at[1], at[2]);
	return 0;
}

/* --- main --- */

static void nothing(void) {}
static void start_sleeper(void) { second_thread(sleeper); }
static void start_answer(void) { second_thread(answer); }
static void start_echo(void) { in_child(echo); second_thread(sleeper); }
static void start_flood(void) { in_child(flood); second_thread(sleeper); }
static void start_flood_batches(void) { in_child(flood_batches); second_thread(sleeper); }
static void start_exchange(void) { in_child(exchange_for_ever); second_thread(sleeper); }

static const struct mode {
	const char *name;
	void (*start)(void), (*run)(long);
} modes[] = {
	{"same", start_sleeper, same}, {"batches", start_sleeper, batches},
	{"threads", start_answer, ping}, {"processes", start_echo, ping},
	{"flood", start_flood, take}, {"flood-batches", start_flood_batches, take_batches},
	{"pairs", start_sleeper, pairs}, {"peer", start_sleeper, peer},
	{"exchange", start_exchange, exchanges},
	{NULL, nothing, NULL},
};

int main(int argc, char **argv) {
	if (argc < 4) return 2;
	style = atoi(argv[2]);
	count = atoi(argv[3]);
	if (argc == 5) return strcmp(argv[1], "hand") == 0 ? hand(argv[4]) : receiver(argv[4]);
	if (count > MAX || socketpair(AF_UNIX, style | SOCK_CLOEXEC, 0, ends)) die("socketpair");
	for (int i = 0; i < count; i++)
		if ((files[i] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0) die("open");
	const struct mode *m = modes;
	while (m->name && strcmp(m->name, argv[1])) m++;
	if (!m->name) return 2;
	m->start();
	for (long n; scanf("%ld", &n) == 1;) {
		long long begin = now();
		m->run(n);
		printf("%lld\n", now() - begin);
		fflush(stdout);
	}
	return 0;
}
