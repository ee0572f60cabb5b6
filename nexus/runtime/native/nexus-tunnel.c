/* nexus-tunnel LISTEN_HOST LISTEN_PORT TARGET_FILE [HOLD_MS]

   Forwards every TCP connection on a loopback address to the loopback address that TARGET_FILE names at that moment
   ("HOST PORT\n"; replaced atomically by whoever knows the address; missing or empty: not up now). While the target is
   not up, a client is held for HOLD_MS (10000 unless given), then reset. Says "listening HOST:PORT" on standard output
   when it is ready. Exits 98 where the port is taken, 2 where the arguments are wrong. It knows nothing of the daemon,
   and ../tunnel.py does the same where there was no compiler: a change of one is a change of both.

   No byte of a connection stays in this process: it is peeked from one socket, sent to the other, and only what was
   taken there is dropped here. So the kernel's own windows are the back-pressure, and memory does not grow with peers.

   All sockets are edge-triggered: one that has ended while its other end is stuck would report that for ever. */
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
    RETRY_MS = 100,        /* between two attempts to reach a target, or to accept where descriptors ran out */
    CHUNKS_A_TURN = 16,    /* of one direction, before others have their turn */
    DESCRIPTORS_KEPT = 16, /* for everything that is not a connection */
    EXIT_USAGE = 2,
    EXIT_TAKEN = 98,
};

enum state { HELD, CONNECTING, OPEN, DEAD };
enum moved { WAITS, MORE, FAILED };

struct end {
    struct pair *pair;
    int fd;
    bool ended; /* nothing more comes from here, and the other end was told */
};

struct pair {
    struct end end[2]; /* the client, the target */
    enum state state;
    bool broken, ready;
    int64_t deadline_ms, retry_ms;
    struct pair *previous, *next; /* of those that have no target yet */
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
static long pairs, most_pairs;
static struct pair *waiting, *ready, *dead;

static int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static void say(const char *format, ...)
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

static bool read_number(const char *text, long least, long most, long *number)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *number = strtol(text, &end, 10);
    return !errno && !*end && *number >= least && *number <= most;
}

static socklen_t length_of(const union address *address)
{
    return address->any.sa_family == AF_INET ? sizeof address->v4 : sizeof address->v6;
}

static in_port_t *port_of(union address *address)
{
    return address->any.sa_family == AF_INET ? &address->v4.sin_port : &address->v6.sin6_port;
}

static bool same(const union address *one, const union address *other)
{
    if (one->any.sa_family != other->any.sa_family)
        return false;
    if (one->any.sa_family == AF_INET)
        return one->v4.sin_port == other->v4.sin_port && one->v4.sin_addr.s_addr == other->v4.sin_addr.s_addr;
    return one->v6.sin6_port == other->v6.sin6_port && IN6_ARE_ADDR_EQUAL(&one->v6.sin6_addr, &other->v6.sin6_addr);
}

static bool read_loopback(const char *host, const char *port, long least_port, union address *address)
{
    long number;
    memset(address, 0, sizeof *address);
    if (!read_number(port, least_port, 65535, &number))
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

/* Where the target is now; false: not up. What is wrong with the file is said once, until it is right again. */
static bool read_target(union address *target)
{
    static bool complained;
    char text[128];
    int fd = open(target_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* nothing that is there by mistake may block */
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
    if (port && read_loopback(text, port, 1, target) && !same(target, &own)) {
        complained = false;
        return true;
    }
    if (!complained)
        say("cannot use the target file: it must hold one line, HOST PORT, of another loopback address");
    complained = true;
    return false;
}

/* Sockets */

static void set(int fd, int level, int option)
{
    int on = 1;
    setsockopt(fd, level, option, &on, sizeof on);
}

static void reset(int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
}

static bool watch(int fd, struct end *end)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = end};
    if (end) {
        event.events |= EPOLLOUT | EPOLLRDHUP;
        set(fd, IPPROTO_TCP, TCP_NODELAY);
        set(fd, SOL_SOCKET, SO_OOBINLINE); /* else an urgent byte would be lost, and peeking would not see it */
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

/* End both connections: with a reset unless both directions ended well, since an end that looks clean would be a lie. */
static void drop(struct pair *pair)
{
    bool well = pair->end[0].ended && pair->end[1].ended && !pair->broken;
    if (pair->state != OPEN)
        stop_waiting(pair);
    for (int side = 0; side < 2; side++)
        if (pair->end[side].fd >= 0)
            (well ? (void)close(pair->end[side].fd) : reset(pair->end[side].fd));
    pair->state = DEAD;
    pair->next_dead = dead; /* its memory goes after this turn, whose events may still name it */
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

static void connect_target(struct pair *pair)
{
    union address target;
    hold(pair);
    if (!read_target(&target))
        return;
    int fd = socket(target.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    set(fd, SOL_SOCKET, SO_REUSEADDR); /* an attempt must never be what keeps the target from its port */
    pair->end[1].fd = fd;
    pair->state = CONNECTING;
    if ((connect(fd, &target.any, length_of(&target)) && errno != EINPROGRESS) || !watch(fd, &pair->end[1]))
        hold(pair);
}

static void connected(struct pair *pair)
{
    int error = 0;
    socklen_t size = sizeof error;
    union address here, there;
    socklen_t here_size = sizeof here, there_size = sizeof there;
    getsockopt(pair->end[1].fd, SOL_SOCKET, SO_ERROR, &error, &size);
    /* Where nobody listens on a port that the kernel also gives to clients, a socket can meet itself. */
    if (error || getpeername(pair->end[1].fd, &there.any, &there_size) ||
        getsockname(pair->end[1].fd, &here.any, &here_size) || same(&here, &there)) {
        hold(pair);
        return;
    }
    stop_waiting(pair);
    pair->state = OPEN;
    make_ready(pair);
}

/* Move what can be moved from one side to the other. */
static enum moved pump(struct pair *pair, int side)
{
    struct end *from = &pair->end[side], *to = &pair->end[!side];
    for (int turn = 0; turn < CHUNKS_A_TURN; turn++) {
        if (from->ended)
            return WAITS;
        ssize_t size = recv(from->fd, chunk, sizeof chunk, MSG_PEEK);
        if (size < 0)
            return errno == EAGAIN ? WAITS : FAILED;
        if (size == 0) {
            from->ended = true;
            shutdown(to->fd, SHUT_WR);
            return WAITS;
        }
        ssize_t sent = send(to->fd, chunk, size, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN ? WAITS : FAILED;
        if (recv(from->fd, chunk, sent, MSG_TRUNC) != sent)
            return FAILED;
    }
    return MORE;
}

static void forward(struct pair *pair)
{
    enum moved there = pump(pair, 0), back = pump(pair, 1);
    if (pair->broken || there == FAILED || back == FAILED) {
        /* What a peer said before it broke off still reaches the other, as it would without a tunnel. */
        while (there == MORE)
            there = pump(pair, 0);
        while (back == MORE)
            back = pump(pair, 1);
        pair->broken = true;
        drop(pair);
    } else if (pair->end[0].ended && pair->end[1].ended)
        drop(pair);
    else if (there == MORE || back == MORE)
        make_ready(pair);
}

static void happened(struct end *end, uint32_t events)
{
    struct pair *pair = end->pair;
    bool gone = events & (EPOLLERR | EPOLLHUP);
    if (pair->state == OPEN) {
        pair->broken |= (events & EPOLLERR) != 0;
        make_ready(pair);
    } else if (pair->state != DEAD && end == &pair->end[0] && gone)
        drop(pair);
    else if (pair->state == CONNECTING && end == &pair->end[1] && (gone || events & EPOLLOUT))
        connected(pair);
}

static void accept_clients(void)
{
    accept_again_ms = 0;
    while (pairs < most_pairs) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == ECONNABORTED || errno == EINTR))
            continue;
        if (fd < 0) {
            if (errno != EAGAIN) /* no descriptor or no memory: no event will tell when there is one */
                accept_again_ms = now_ms + RETRY_MS;
            return;
        }
        struct pair *pair = calloc(1, sizeof *pair);
        if (!pair) {
            reset(fd);
            continue;
        }
        pair->end[0] = (struct end){.pair = pair, .fd = fd};
        pair->end[1] = (struct end){.pair = pair, .fd = -1};
        pair->deadline_ms = now_ms + hold_ms;
        pairs++;
        start_waiting(pair);
        if (watch(fd, &pair->end[0]))
            connect_target(pair);
        else
            drop(pair);
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
        /* A client whose target could never have a descriptor is better off in the queue. */
        most_pairs = limit.rlim_cur == RLIM_INFINITY ? INT_MAX : ((long)limit.rlim_cur - DESCRIPTORS_KEPT) / 2;
    }
    if (most_pairs < 1)
        most_pairs = 1;
}

static int start_listening(const char *host, const char *port)
{
    bool bracket = own.any.sa_family == AF_INET6;
    socklen_t size = sizeof own;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listen_fd = socket(own.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    set(listen_fd, SOL_SOCKET, SO_REUSEADDR);
    if (epoll_fd < 0 || listen_fd < 0 || bind(listen_fd, &own.any, length_of(&own)) || listen(listen_fd, SOMAXCONN) ||
        !watch(listen_fd, NULL)) {
        say("cannot listen on %s port %s: %s", host, port,
            errno == EADDRINUSE ? "another process has the port" : strerror(errno));
        return errno == EADDRINUSE ? EXIT_TAKEN : EXIT_FAILURE;
    }
    getsockname(listen_fd, &own.any, &size);
    printf(bracket ? "listening [%s]:%d\n" : "listening %s:%d\n", host, ntohs(*port_of(&own)));
    fflush(stdout);
    return 0;
}

static int until_next(void)
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

static void turn(void)
{
    struct epoll_event events[64];
    int count = epoll_wait(epoll_fd, events, 64, until_next());
    now_ms = clock_ms();
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr)
            happened(events[i].data.ptr, events[i].events);
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
            drop(pair);
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

int main(int count, char **words)
{
    long number;
    if (count < 4 || count > 5 || (count == 5 && !read_number(words[4], 0, INT_MAX, &number))) {
        say("cannot start: usage: nexus-tunnel LISTEN_HOST LISTEN_PORT TARGET_FILE [HOLD_MS]");
        return EXIT_USAGE;
    }
    if (count == 5)
        hold_ms = number;
    target_file = words[3];
    if (!read_loopback(words[1], words[2], 0, &own)) {
        say("cannot listen on %s port %s: that is not a loopback address and a port", words[1], words[2]);
        return EXIT_USAGE;
    }
    prepare_process();
    int failure = start_listening(words[1], words[2]);
    if (failure)
        return failure;
    for (;;)
        turn();
}
