// SPDX-License-Identifier: Apache-2.0
//
// logger writes what a container prints to its log file, in the format that Kubernetes reads: one line
// "TIME STREAM F|P TEXT" for each line of output. It belongs to the container's shim rather than to mini, so that no
// output is lost or blocked while mini restarts.
//
//	logger log FILE ctl SOCKET [tty 1]                      stdout is descriptor 3, stderr 4, 5 tells that it is ready
//	logger log FILE ctl SOCKET out FIFO [err FIFO]          opens the two itself; 1 tells that it is ready
//
// On SOCKET it takes connections, each starting with one byte:
//
//	R  open FILE again, after a rotation; answers "R", or "E" if it cannot
//	A  send everything that is printed from now on, as frames of stream (1 stdout, 2 stderr), length (4 bytes, little
//	   endian) and text; the connection closes when the container's output has ended
//	D  write what has been printed so far, to the file and to those attached; answers "D"
//	Q  write what is there and end
//
// It ends with the output, or on TERM when nothing more is waiting.

#include "sys.h"

#include <linux/fcntl.h>
#include <linux/poll.h>
#include <linux/signal.h>
#include <linux/signalfd.h>
#include <linux/time.h>
#include <linux/time_types.h>
#include <linux/uio.h>
#include <linux/un.h>

enum {
	TEXT_MAX = 16384,  // longest text of one log line; longer output lines are split into P lines
	LINES_MAX = 64,    // log lines written by one system call
	HEAD_MAX = 48,     // "2006-01-02T15:04:05.000000000Z stdout F " is 40
	CONNS_MAX = 16,
	SEND_SECONDS = 10, // how long a reader that takes nothing may hold up the container
};

#define MY_AF_UNIX 1
#define MY_SOCK_STREAM 1
#define MY_SOCK_CLOEXEC 02000000
#define MY_SOCK_NONBLOCK 00004000
#define MY_SOL_SOCKET 1
#define MY_SO_SNDTIMEO 21
#define MY_EAGAIN 11
#define MY_EINTR 4

struct stream {
	int fd;
	char name[7];
	char kind;
	long used;
	char text[TEXT_MAX];
};

static struct stream streams[2] = {{-1, "stdout", 1, 0, {0}}, {-1, "stderr", 2, 0, {0}}};
static char heads[LINES_MAX][HEAD_MAX];
static struct iovec iov[LINES_MAX * 3];
static int lines;
static int logfd = -1;
static const char *logpath;

static struct {
	int fd;
	int attached;
} conns[CONNS_MAX];

void *memcpy(void *to, const void *from, unsigned long n)
{
	char *t = to;
	const char *f = from;
	while (n--)
		*t++ = *f++;
	return to;
}

void *memset(void *to, int c, unsigned long n)
{
	char *t = to;
	while (n--)
		*t++ = c;
	return to;
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static void digits(char *to, long v, int n)
{
	while (n--) {
		to[n] = '0' + v % 10;
		v /= 10;
	}
}

// date writes the UTC calendar date and time of day of a Unix time as 2006-01-02T15:04:05. The year begins in March
// here, so that the leap day is its last and the month lengths repeat every five months.
static void date(char *to, long time)
{
	long day = time / 86400, sec = time % 86400;
	long z = day + 719468;
	long era = z / 146097, doe = z % 146097;
	long yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	long doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	long mp = (5 * doy + 2) / 153;
	long d = doy - (153 * mp + 2) / 5 + 1;
	long m = mp < 10 ? mp + 3 : mp - 9;
	long y = yoe + era * 400 + (m <= 2);
	digits(to, y, 4);
	to[4] = '-';
	digits(to + 5, m, 2);
	to[7] = '-';
	digits(to + 8, d, 2);
	to[10] = 'T';
	digits(to + 11, sec / 3600, 2);
	to[13] = ':';
	digits(to + 14, sec / 60 % 60, 2);
	to[16] = ':';
	digits(to + 17, sec % 60, 2);
}

static const char *stamp(void)
{
	static char text[31];
	static long second = -1;
	struct __kernel_timespec now = {0, 0};
	sys2(__NR_clock_gettime, CLOCK_REALTIME, &now);
	if (now.tv_sec != second) {
		second = now.tv_sec;
		date(text, second);
		text[19] = '.';
		text[29] = 'Z';
	}
	digits(text + 20, now.tv_nsec, 9);
	return text;
}

static int reopen(void)
{
	long fd = sys4(__NR_openat, AT_FDCWD, logpath, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	if (fd < 0)
		return 0;
	if (logfd >= 0)
		sys1(__NR_close, logfd);
	logfd = fd;
	return 1;
}

// flush writes the lines collected. What a full disk refuses is dropped: the container goes on.
static void flush(void)
{
	struct iovec *v = iov;
	long n = lines * 3;
	while (n > 0) {
		long w = sys3(__NR_writev, logfd, v, n);
		if (w == -MY_EINTR)
			continue;
		if (w <= 0)
			break;
		while (n > 0 && w >= (long)v->iov_len) {
			w -= v->iov_len;
			v++, n--;
		}
		if (n > 0) {
			v->iov_base = (char *)v->iov_base + w;
			v->iov_len -= w;
		}
	}
	lines = 0;
}

static void line(struct stream *s, const char *at, char *text, long len, char tag)
{
	if (lines == LINES_MAX)
		flush();
	char *h = heads[lines];
	memcpy(h, at, 30);
	h[30] = ' ';
	memcpy(h + 31, s->name, 6);
	h[37] = ' ';
	h[38] = tag;
	h[39] = ' ';
	struct iovec *v = &iov[lines++ * 3];
	v[0] = (struct iovec){h, 40};
	v[1] = (struct iovec){text, len};
	v[2] = (struct iovec){"\n", 1};
}

static void hangup(int i)
{
	sys1(__NR_close, conns[i].fd);
	conns[i].fd = -1;
	conns[i].attached = 0;
}

static int send_all(int fd, const char *p, long n)
{
	while (n > 0) {
		long w = sys3(__NR_write, fd, p, n);
		if (w == -MY_EINTR)
			continue;
		if (w <= 0)
			return 0;
		p += w, n -= w;
	}
	return 1;
}

static void forward(char kind, const char *text, long n)
{
	char head[5] = {kind, n, n >> 8, n >> 16, n >> 24};
	for (int i = 0; i < CONNS_MAX; i++)
		if (conns[i].attached && !(send_all(conns[i].fd, head, 5) && send_all(conns[i].fd, text, n)))
			hangup(i);
}

// take reads once from s and writes the lines that are complete. It returns 0 at the end of the output, -1 when nothing
// is waiting.
static int take(struct stream *s)
{
	long n = sys3(__NR_read, s->fd, s->text + s->used, TEXT_MAX - s->used);
	if (n == -MY_EAGAIN || n == -MY_EINTR)
		return -1;
	if (n <= 0) {
		if (s->used)
			line(s, stamp(), s->text, s->used, 'P');
		flush();
		s->used = 0;
		sys1(__NR_close, s->fd);
		s->fd = -1;
		return 0;
	}
	forward(s->kind, s->text + s->used, n);
	const char *at = stamp();
	char *start = s->text, *p = s->text + s->used, *end = p + n;
	for (; p < end; p++)
		if (*p == '\n') {
			line(s, at, start, p - start, 'F');
			start = p + 1;
		}
	if (end - start == TEXT_MAX) {
		line(s, at, start, TEXT_MAX, 'P');
		start = end;
	}
	flush();
	s->used = end - start;
	if (start != s->text)
		memcpy(s->text, start, s->used);
	return 1;
}

static void accept_one(int listener)
{
	long fd = sys4(__NR_accept4, listener, 0, 0, MY_SOCK_CLOEXEC);
	if (fd < 0)
		return;
	// The socket blocks, within bounds, so that a reader gets everything in order.
	struct __kernel_old_timeval limit = {SEND_SECONDS, 0};
	sys5(__NR_setsockopt, fd, MY_SOL_SOCKET, MY_SO_SNDTIMEO, &limit, sizeof(limit));
	for (int i = 0; i < CONNS_MAX; i++)
		if (conns[i].fd < 0) {
			conns[i].fd = fd;
			return;
		}
	sys1(__NR_close, fd);
}

// drain writes all that was printed so far, a line that has not ended included: the container has, and its last words may be asked
// for at once.
static void drain(void)
{
	for (int i = 0; i < 2; i++) {
		struct stream *s = &streams[i];
		while (s->fd >= 0 && take(s) == 1)
			;
		if (s->fd >= 0 && s->used) {
			line(s, stamp(), s->text, s->used, 'P');
			flush();
			s->used = 0;
		}
	}
}

// serve answers what came on connection i and tells whether logger shall end.
static int serve(int i)
{
	char c;
	if (sys3(__NR_read, conns[i].fd, &c, 1) != 1) {
		hangup(i);
		return 0;
	}
	if (c == 'A') {
		conns[i].attached = 1;
		if (!send_all(conns[i].fd, "A", 1))
			hangup(i);
	} else if (c == 'R') {
		if (!send_all(conns[i].fd, reopen() ? "R" : "E", 1))
			hangup(i);
	} else if (c == 'D') {
		drain();
		if (!send_all(conns[i].fd, "D", 1))
			hangup(i);
	}
	return c == 'Q';
}

static int listen_at(const char *path)
{
	struct sockaddr_un addr = {.sun_family = MY_AF_UNIX};
	unsigned long n = 0;
	while (path[n] && n < sizeof(addr.sun_path) - 1) {
		addr.sun_path[n] = path[n];
		n++;
	}
	long fd = sys3(__NR_socket, MY_AF_UNIX, MY_SOCK_STREAM | MY_SOCK_CLOEXEC | MY_SOCK_NONBLOCK, 0);
	if (path[n] || fd < 0)
		return -1;
	sys3(__NR_unlinkat, AT_FDCWD, path, 0);
	if (sys3(__NR_bind, fd, &addr, sizeof(addr)) < 0 || sys2(__NR_listen, fd, 16) < 0)
		return -1;
	sys4(__NR_fchmodat, AT_FDCWD, path, 0600, 0);
	return fd;
}

static int open_fifo(const char *path)
{
	return sys4(__NR_openat, AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
}

static void run(int listener, int sigfd)
{
	struct pollfd p[4 + CONNS_MAX];
	while (streams[0].fd >= 0 || streams[1].fd >= 0) {
		p[0] = (struct pollfd){streams[0].fd, POLLIN, 0};
		p[1] = (struct pollfd){streams[1].fd, POLLIN, 0};
		p[2] = (struct pollfd){listener, POLLIN, 0};
		p[3] = (struct pollfd){sigfd, POLLIN, 0};
		for (int i = 0; i < CONNS_MAX; i++)
			p[4 + i] = (struct pollfd){conns[i].fd, POLLIN, 0};
		if (sys5(__NR_ppoll, p, 4 + CONNS_MAX, 0, 0, 0) <= 0)
			continue;
		for (int i = 0; i < 2; i++)
			if (p[i].revents)
				take(&streams[i]);
		if (p[3].revents) {
			struct signalfd_siginfo info;
			if (sys3(__NR_read, sigfd, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGTERM) {
				drain();
				return;
			}
		}
		for (int i = 0; i < CONNS_MAX; i++)
			if (p[4 + i].fd >= 0 && p[4 + i].fd == conns[i].fd && p[4 + i].revents && serve(i)) {
				drain();
				return;
			}
		if (p[2].revents)
			accept_one(listener);
	}
}

void entry(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	const char *ctl = 0, *out = 0, *err = 0;
	int ready = 5, tty = 0;
	for (long i = 1; i + 1 < argc; i += 2) {
		if (same(argv[i], "log"))
			logpath = argv[i + 1];
		else if (same(argv[i], "ctl"))
			ctl = argv[i + 1];
		else if (same(argv[i], "out"))
			out = argv[i + 1];
		else if (same(argv[i], "err"))
			err = argv[i + 1];
		else if (same(argv[i], "tty"))
			tty = 1;
	}
	if (!logpath || !ctl)
		quit(2);
	unsigned long all = ~0UL;
	sys4(__NR_rt_sigprocmask, SIG_BLOCK, &all, 0, sizeof(all));
	int sigfd = sys4(__NR_signalfd4, -1, &all, sizeof(all), O_CLOEXEC);
	for (int i = 0; i < CONNS_MAX; i++)
		conns[i].fd = -1;
	if (out) {
		ready = 1;
		streams[0].fd = open_fifo(out);
		streams[1].fd = err ? open_fifo(err) : -1;
		if (streams[0].fd < 0 || (err && streams[1].fd < 0))
			quit(3);
	} else {
		// A terminal has one stream, and its stderr pipe stays open in the shim for good.
		streams[0].fd = 3;
		streams[1].fd = tty ? -1 : 4;
		if (tty)
			sys1(__NR_close, 4);
	}
	for (int i = 0; i < 2; i++)
		if (streams[i].fd >= 0)
			sys3(__NR_fcntl, streams[i].fd, F_SETFL, O_NONBLOCK);
	int listener = listen_at(ctl);
	if (listener < 0)
		quit(4);
	if (!reopen())
		quit(5);
	sys1(__NR_chdir, "/"); // hold no mount
	sys3(__NR_write, ready, "R", 1);
	sys1(__NR_close, ready);
	run(listener, sigfd);
	sys3(__NR_unlinkat, AT_FDCWD, ctl, 0);
	quit(0);
}
