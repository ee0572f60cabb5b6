/* nexus-tunnel LISTEN_HOST LISTEN_PORT TARGET_FILE [HOLD_MS]

   Forwards every TCP connection on a loopback address to the loopback address that TARGET_FILE names at that moment
   ("HOST PORT\n"; the daemon replaces the file atomically; missing or empty: the target is not up). Of 127.0.0.1 and ::1
   each stands for both, as a program may listen on either: after a refusal the other one is tried at once. While the
   target is not up, a client is held for HOLD_MS (default 10000), then reset. Prints "listening HOST:PORT" on standard output
   when it is ready. Exits with 98 when the port is in use, and with 2 when the arguments are wrong. It knows nothing of
   the daemon. ../tunnel.py does the same where no compiler was available: every change must be made in both.

   This process buffers no data: bytes are peeked from one socket and sent to the other, and only those that the other
   accepted are removed from the first. So the kernel's TCP windows are the back-pressure, and memory does not grow with
   the amount of data in flight.

   All sockets are edge-triggered: a level-triggered socket that has ended while its peer is stuck would wake the loop
   continuously. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    RETRY_MS = 100,            /* between two attempts to connect to a target, or to accept after descriptors ran out */
    CHUNKS_PER_TURN = 16,      /* of one direction, before other connections are served */
    RESERVED_DESCRIPTORS = 16, /* for everything that is not a connection */
    EXIT_USAGE = 2,
    EXIT_PORT_IN_USE = 98,
};

enum state { HELD, CONNECTING, OPEN, DEAD };
enum progress { BLOCKED, MORE, FAILED };

struct endpoint {
    struct pair *pair;
    int fd;
    bool ended; /* end of file was read here, and the other side was shut down for writing */
};

struct pair {
    struct endpoint end[2]; /* the client, the target */
    enum state state;
    bool broken, ready;
    bool as_named, turned; /* the last attempt used the named family; it was the second of two */
    int64_t deadline_ms, retry_ms;
    struct pair *previous, *next; /* in the list of pairs without a connected target */
    struct pair *next_ready, *next_dead;
};

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static char chunk[64 * 1024];
static union address own;
static const char *target_file;
static int64_t hold_ms = 10000, now_ms, accept_again_ms;
static int epoll_fd, listen_fd;
static bool other_family; /* the last target that answered had the other family than the file names */
static long pairs, max_pairs;
static struct pair *waiting, *ready, *dead;

static int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static void print_error(const char *format, ...)
{
    char line[512] = "nexus-tunnel: ";
    size_t used = strlen(line);
    va_list values;
    va_start(values, format);
    vsnprintf(line + used, sizeof line - used - 1, format, values);
    va_end(values);
    strcat(line, "\n");
    ssize_t written = write(STDERR_FILENO, line, strlen(line));
    (void)written;
}

/* Addresses */

static bool read_number(const char *text, long min, long max, long *number)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *number = strtol(text, &end, 10);
    return !errno && !*end && *number >= min && *number <= max;
}

static socklen_t length_of(const union address *address)
{
    return address->any.sa_family == AF_INET ? sizeof address->v4 : sizeof address->v6;
}

static in_port_t *port_of(union address *address)
{
    return address->any.sa_family == AF_INET ? &address->v4.sin_port : &address->v6.sin6_port;
}

static bool same_address(const union address *one, const union address *other)
{
    if (one->any.sa_family != other->any.sa_family)
        return false;
    if (one->any.sa_family == AF_INET)
        return one->v4.sin_port == other->v4.sin_port && one->v4.sin_addr.s_addr == other->v4.sin_addr.s_addr;
    return one->v6.sin6_port == other->v6.sin6_port && IN6_ARE_ADDR_EQUAL(&one->v6.sin6_addr, &other->v6.sin6_addr);
}

static bool read_loopback(const char *host, const char *port, long min_port, union address *address)
{
    long number;
    memset(address, 0, sizeof *address);
    if (!read_number(port, min_port, 65535, &number))
        return false;
    if (!strcmp(host, "localhost"))
        host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &address->v4.sin_addr) == 1) {
        address->any.sa_family = AF_INET;
        if (ntohl(address->v4.sin_addr.s_addr) >> 24 != 127)
            return false;
    } else {
        address->any.sa_family = AF_INET6;
        if (inet_pton(AF_INET6, host, &address->v6.sin6_addr) != 1 || !IN6_IS_ADDR_LOOPBACK(&address->v6.sin6_addr))
            return false;
    }
    *port_of(address) = htons(number);
    return true;
}

/* Turns 127.0.0.1 into ::1 and the other way round; false: it is another address of the loopback. */
static bool to_other_family(union address *address)
{
    union address other;
    memset(&other, 0, sizeof other);
    if (address->any.sa_family == AF_INET && ntohl(address->v4.sin_addr.s_addr) == INADDR_LOOPBACK) {
        other.any.sa_family = AF_INET6;
        other.v6.sin6_addr = in6addr_loopback;
    } else if (address->any.sa_family == AF_INET6) {
        other.any.sa_family = AF_INET;
        other.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else {
        return false;
    }
    *port_of(&other) = *port_of(address);
    *address = other;
    return true;
}

/* Reads the target's present address; false: not up. Warns of a bad file once, until it was valid again. */
static bool read_target(union address *target)
{
    static bool warned;
    char text[128];
    int fd = open(target_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not even a FIFO may block */
    ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (size > 0 && text[size - 1] == '\n')
        size--;
    if (size <= 0)
        return false;
    text[size] = 0;
    char *port = strlen(text) == (size_t)size ? strchr(text, ' ') : NULL;
    if (port)
        *port++ = 0;
    if (port && read_loopback(text, port, 1, target) && !same_address(target, &own)) {
        warned = false;
        return true;
    }
    if (!warned)
        print_error("cannot use the target file: it must hold one line, HOST PORT, of another loopback address");
    warned = true;
    return false;
}

/* Sockets */

static void set_option(int fd, int level, int option)
{
    int on = 1;
    setsockopt(fd, level, option, &on, sizeof on);
}

static void reset(int fd)
{
    struct linger discard = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &discard, sizeof discard);
    close(fd);
}

static bool watch(int fd, struct endpoint *end)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = end};
    if (end) {
        event.events |= EPOLLOUT | EPOLLRDHUP;
        set_option(fd, IPPROTO_TCP, TCP_NODELAY);
        set_option(fd, SOL_SOCKET, SO_OOBINLINE); /* otherwise an urgent byte would be lost, since peeking skips it */
    }
    return !epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

/* Pairs */

static void start_waiting(struct pair *pair)
{
    pair->previous = NULL;
    pair->next = waiting;
    if (waiting)
        waiting->previous = pair;
    waiting = pair;
}

static void stop_waiting(struct pair *pair)
{
    if (pair->previous)
        pair->previous->next = pair->next;
    else
        waiting = pair->next;
    if (pair->next)
        pair->next->previous = pair->previous;
}

/* Closes both connections: with a reset unless both directions ended with end of file, so that neither peer takes a
   broken connection for a complete one. */
static void close_pair(struct pair *pair)
{
    bool clean = pair->end[0].ended && pair->end[1].ended && !pair->broken;
    if (pair->state != OPEN)
        stop_waiting(pair);
    for (int side = 0; side < 2; side++)
        if (pair->end[side].fd >= 0)
            (clean ? (void)close(pair->end[side].fd) : reset(pair->end[side].fd));
    pair->state = DEAD;
    pair->next_dead = dead; /* freed at the end of run_once, since pending events may still point to it */
    dead = pair;
    pairs--;
    accept_again_ms = now_ms;
}

static void hold(struct pair *pair)
{
    if (pair->end[1].fd >= 0)
        reset(pair->end[1].fd);
    pair->end[1].fd = -1;
    pair->state = HELD;
    pair->retry_ms = now_ms + RETRY_MS;
}

static void make_ready(struct pair *pair)
{
    if (pair->ready)
        return;
    pair->ready = true;
    pair->next_ready = ready;
    ready = pair;
}

/* The target did not answer: try the other family, at once for the first time. */
static void refused(struct pair *pair)
{
    hold(pair);
    other_family = pair->as_named;
    if (!pair->turned)
        pair->retry_ms = now_ms;
    pair->turned = !pair->turned;
}

static void connect_target(struct pair *pair)
{
    union address target, named;
    hold(pair);
    if (!read_target(&target))
        return;
    named = target;
    if (other_family && (!to_other_family(&target) || same_address(&target, &own)))
        target = named;
    pair->as_named = same_address(&target, &named);
    int fd = socket(target.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    set_option(fd, SOL_SOCKET, SO_REUSEADDR); /* an attempt must not keep the target from binding its port */
    pair->end[1].fd = fd;
    pair->state = CONNECTING;
    if ((connect(fd, &target.any, length_of(&target)) && errno != EINPROGRESS) || !watch(fd, &pair->end[1]))
        refused(pair);
}

static void finish_connect(struct pair *pair)
{
    int error = 0;
    socklen_t size = sizeof error;
    union address here, there;
    socklen_t here_size = sizeof here, there_size = sizeof there;
    getsockopt(pair->end[1].fd, SOL_SOCKET, SO_ERROR, &error, &size);
    /* On a port of the ephemeral range without a listener, a socket can connect to itself (simultaneous open). */
    if (error || getpeername(pair->end[1].fd, &there.any, &there_size) ||
        getsockname(pair->end[1].fd, &here.any, &here_size) || same_address(&here, &there)) {
        refused(pair);
        return;
    }
    stop_waiting(pair);
    pair->state = OPEN;
    make_ready(pair);
}

/* Moves available data from one side to the other. */
static enum progress pump(struct pair *pair, int side)
{
    struct endpoint *from = &pair->end[side], *to = &pair->end[!side];
    for (int i = 0; i < CHUNKS_PER_TURN; i++) {
        if (from->ended)
            return BLOCKED;
        ssize_t size = recv(from->fd, chunk, sizeof chunk, MSG_PEEK);
        if (size < 0)
            return errno == EAGAIN ? BLOCKED : FAILED;
        if (size == 0) {
            from->ended = true;
            shutdown(to->fd, SHUT_WR);
            return BLOCKED;
        }
        ssize_t sent = send(to->fd, chunk, size, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN ? BLOCKED : FAILED;
        if (recv(from->fd, chunk, sent, MSG_TRUNC) != sent)
            return FAILED;
    }
    return MORE;
}

static void forward(struct pair *pair)
{
    enum progress there = pump(pair, 0), back = pump(pair, 1);
    if (pair->broken || there == FAILED || back == FAILED) {
        /* Data that a peer sent before the connection broke still reaches the other, as it would without a tunnel. */
        while (there == MORE)
            there = pump(pair, 0);
        while (back == MORE)
            back = pump(pair, 1);
        pair->broken = true;
        close_pair(pair);
    } else if (pair->end[0].ended && pair->end[1].ended)
        close_pair(pair);
    else if (there == MORE || back == MORE)
        make_ready(pair);
}

static void handle_event(struct endpoint *end, uint32_t events)
{
    struct pair *pair = end->pair;
    bool gone = events & (EPOLLERR | EPOLLHUP);
    if (pair->state == OPEN) {
        pair->broken |= (events & EPOLLERR) != 0;
        make_ready(pair);
    } else if (pair->state != DEAD && end == &pair->end[0] && gone)
        close_pair(pair);
    else if (pair->state == CONNECTING && end == &pair->end[1] && (gone || events & EPOLLOUT))
        finish_connect(pair);
}

static void accept_clients(void)
{
    accept_again_ms = 0;
    while (pairs < max_pairs) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == ECONNABORTED || errno == EINTR))
            continue;
        if (fd < 0) {
            if (errno != EAGAIN) /* no descriptor or memory: no event will report when there is */
                accept_again_ms = now_ms + RETRY_MS;
            return;
        }
        struct pair *pair = calloc(1, sizeof *pair);
        if (!pair) {
            reset(fd);
            continue;
        }
        pair->end[0] = (struct endpoint){.pair = pair, .fd = fd};
        pair->end[1] = (struct endpoint){.pair = pair, .fd = -1};
        pair->deadline_ms = now_ms + hold_ms;
        pairs++;
        start_waiting(pair);
        if (watch(fd, &pair->end[0]))
            connect_target(pair);
        else
            close_pair(pair);
    }
}

/* Start */

static void prepare_process(void)
{
    sigset_t none;
    sigemptyset(&none);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_SETMASK, &none, NULL);
    struct rlimit limit;
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
        /* Each pair needs two descriptors; clients beyond this number wait in the listen queue. */
        max_pairs = limit.rlim_cur == RLIM_INFINITY ? INT_MAX : ((long)limit.rlim_cur - RESERVED_DESCRIPTORS) / 2;
    }
    if (max_pairs < 1)
        max_pairs = 1;
}

static int start_listening(const char *host, const char *port)
{
    bool bracket = own.any.sa_family == AF_INET6;
    socklen_t size = sizeof own;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listen_fd = socket(own.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    set_option(listen_fd, SOL_SOCKET, SO_REUSEADDR);
    if (epoll_fd < 0 || listen_fd < 0 || bind(listen_fd, &own.any, length_of(&own)) || listen(listen_fd, SOMAXCONN) ||
        !watch(listen_fd, NULL)) {
        print_error("cannot listen on %s port %s: %s", host, port,
            errno == EADDRINUSE ? "the port is in use by another process" : strerror(errno));
        return errno == EADDRINUSE ? EXIT_PORT_IN_USE : EXIT_FAILURE;
    }
    getsockname(listen_fd, &own.any, &size);
    printf(bracket ? "listening [%s]:%d\n" : "listening %s:%d\n", host, ntohs(*port_of(&own)));
    fflush(stdout);
    return 0;
}

static int next_timeout_ms(void)
{
    int64_t next = accept_again_ms ? accept_again_ms : INT64_MAX;
    if (ready)
        return 0;
    for (struct pair *pair = waiting; pair; pair = pair->next) {
        if (pair->deadline_ms < next)
            next = pair->deadline_ms;
        if (pair->state == HELD && pair->retry_ms < next)
            next = pair->retry_ms;
    }
    if (next == INT64_MAX)
        return -1;
    return next <= now_ms ? 0 : next - now_ms < INT_MAX ? (int)(next - now_ms) : INT_MAX;
}

static void run_once(void)
{
    struct epoll_event events[64];
    int count = epoll_wait(epoll_fd, events, 64, next_timeout_ms());
    now_ms = clock_ms();
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr)
            handle_event(events[i].data.ptr, events[i].events);
        else
            accept_again_ms = now_ms;
    }
    struct pair *list = ready, *pair;
    for (ready = NULL; (pair = list);) {
        list = pair->next_ready;
        pair->ready = false;
        if (pair->state == OPEN)
            forward(pair);
    }
    for (struct pair *next = waiting; (pair = next);) {
        next = pair->next;
        if (pair->deadline_ms <= now_ms)
            close_pair(pair);
        else if (pair->state == HELD && pair->retry_ms <= now_ms)
            connect_target(pair);
    }
    if (accept_again_ms && accept_again_ms <= now_ms)
        accept_clients();
    while ((pair = dead)) {
        dead = pair->next_dead;
        free(pair);
    }
}

int main(int argc, char **argv)
{
    long number;
    if (argc < 4 || argc > 5 || (argc == 5 && !read_number(argv[4], 0, INT_MAX, &number))) {
        print_error("cannot start: usage: nexus-tunnel LISTEN_HOST LISTEN_PORT TARGET_FILE [HOLD_MS]");
        return EXIT_USAGE;
    }
    if (argc == 5)
        hold_ms = number;
    target_file = argv[3];
    if (!read_loopback(argv[1], argv[2], 0, &own)) {
        print_error("cannot listen on %s port %s: that is not a loopback address and a port", argv[1], argv[2]);
        return EXIT_USAGE;
    }
    prepare_process();
    int failure = start_listening(argv[1], argv[2]);
    if (failure)
        return failure;
    for (;;)
        run_once();
}
