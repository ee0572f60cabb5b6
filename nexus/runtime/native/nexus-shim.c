/* nexus-shim LABEL ORDERS_FD REPORT_FD RUN_FD LOG_FD LOCK_FD

   Stands between the daemon and one child, and outlives the daemon: starts the child in a session of its own, keeps its
   output within a bound, adopts everything that the child leaves behind, carries out its stop to the end, and writes
   how it ended. It knows no protocol; LABEL is for ps(1). ../shim.py does the same where there was no compiler: a change
   of one is a change of both.

   ORDERS_FD   what to start, as texts that each end with a zero byte: format "1", directory, bound of the log in bytes,
               stop signal, grace in ms, soft limit of descriptors (-1: as it is), number of arguments, the arguments,
               number of variables, the variables. Neither ps nor /proc shows them as the shim's own. It stays open, so
               that the daemon can read there with what the child was started.
   REPORT_FD   gets one line: "ok", or "fail WHAT ERRNO", WHAT being chdir, exec or shim.
   RUN_FD      the run's folder. status: allocated beforehand and written in place, so that a full disk loses no exit
               code; control: a FIFO that takes "stop SIGNAL GRACE_MS" (-1: as in the orders),
               "signal SIGNAL" and "kill".
   LOG_FD      the folder of the log, and LOCK_FD a file: both with an flock that lives as long as the shim does.

   The status: at 0 "run 1 BOOT_ID PID PID_START STARTED_MS SHIM SHIM_START SEGMENT INDEX_BYTES DATA_BYTES PIPE PIPE", the
   START of a process being what /proc/PID/stat has, then where the log stood and the inodes of the child's two pipes;
   at 256 "exit CODE 0 MS", "signal NUMBER CORE MS" or "fail WHAT ERRNO"; at 384 "done MS".

   The log: N.log holds bytes, N.idx entries of 16 bytes, {u64 ms, u32 length, u32 stream}. An entry is written before its
   bytes, and may grow while it is the last one: what a reader may take is what both files have. Stream 0x80 | s tells of
   bytes of stream s that the disk had no room for. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

enum {
    CHUNK = 64 * 1024,
    ENTRY = 16,
    SEGMENTS = 8,        /* that a full log has at least */
    SEGMENT_MOST = 32 * 1024 * 1024, /* a reader goes through the index of a whole one */
    LEAST_ROOM = 64,     /* a segment with less is full: two marks and an entry with its bytes must fit */
    MERGE_MS = 2,        /* bytes of a stream that come within this share an entry */
    RUN_AT = 0, RUN_BYTES = 256, EXIT_AT = 256, DONE_AT = 384, LINE_BYTES = 128,
    KILL_AGAIN_MS = 250, /* at most, between two rounds that end what is left */
    DRAIN_MS = 1000,     /* at most, when somebody outside still writes to a pipe of the child */
    LOST = 0x80,
};

struct orders {
    char *directory, **arguments, **variables;
    long log_bytes, stop_signal, grace_ms, descriptors;
};

struct entry {
    uint64_t ms;
    uint32_t length, stream;
};

static char chunk[CHUNK];
static int run_fd, log_fd, status_fd = -1;

/* ---- times and small files ---- */

static int64_t clock_ms(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static ssize_t read_small(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    text[got > 0 ? got : 0] = 0;
    return got;
}

/* The parent and the start time of a process; false when it is gone. */
static bool process_facts(pid_t pid, long *parent, unsigned long long *start)
{
    char path[64], text[1024], *after;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (read_small(path, text, sizeof text) <= 0 || !(after = strrchr(text, ')')))
        return false; /* a name may hold blanks and brackets: what counts is behind the last one */
    return sscanf(after + 1, " %*c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", parent,
                  start) == 2;
}

/* One write into room that is there, so that a reader never sees half a line. */
static void put_status(off_t at, size_t size, const char *text)
{
    char line[RUN_BYTES];
    size_t length = strlen(text);
    memset(line, ' ', size);
    memcpy(line, text, length < size - 1 ? length : size - 1);
    line[size - 1] = '\n';
    if (pwrite(status_fd, line, size, at) < 0) {
        /* nobody is left to tell */
    }
}

/* ---- the log ---- */

static int data_fd = -1, index_fd = -1;
static long segment = -1, data_bytes, index_bytes, segment_most, log_bound;
static struct entry last;
static bool have_last;
static uint64_t lost[3];

static bool no_room(int error) { return error == ENOSPC || error == EDQUOT; }

static void segment_name(char *name, size_t size, long number, const char *kind) { snprintf(name, size, "%ld.%s", number, kind); }

/* What the log takes now, its first and its last segment (-1 where there is none). */
static long survey(long *oldest, long *newest)
{
    long total = 0, number;
    int fd = openat(log_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *item;
    struct stat file;
    char *end;
    *oldest = *newest = -1;
    while (folder && (item = readdir(folder))) {
        number = strtol(item->d_name, &end, 10);
        if (end == item->d_name || (strcmp(end, ".log") && strcmp(end, ".idx")))
            continue;
        if (fstatat(log_fd, item->d_name, &file, AT_SYMLINK_NOFOLLOW) == 0)
            total += file.st_size;
        if (*oldest < 0 || number < *oldest)
            *oldest = number;
        if (number > *newest)
            *newest = number;
    }
    if (folder)
        closedir(folder);
    return total;
}

static bool drop_oldest(void)
{
    char name[40];
    long oldest, newest;
    survey(&oldest, &newest);
    if (oldest < 0 || oldest == segment)
        return false;
    segment_name(name, sizeof name, oldest, "idx");
    bool first = unlinkat(log_fd, name, 0) == 0;
    segment_name(name, sizeof name, oldest, "log");
    return (unlinkat(log_fd, name, 0) == 0) || first;
}

/* Makes room for a segment that takes ROOM bytes beside what there is. */
static void keep_bound(long room)
{
    long oldest, newest;
    while (survey(&oldest, &newest) + room > log_bound && drop_oldest())
        continue;
}

static bool open_segment(long number)
{
    char name[40];
    if (data_fd >= 0)
        close(data_fd);
    if (index_fd >= 0)
        close(index_fd);
    data_fd = index_fd = -1;
    have_last = false;
    segment_name(name, sizeof name, number, "log");
    data_fd = openat(log_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    segment_name(name, sizeof name, number, "idx");
    if (data_fd >= 0)
        index_fd = openat(log_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (index_fd < 0)
        return false;
    segment = number;
    data_bytes = index_bytes = 0;
    return true;
}

static bool next_segment(void)
{
    long number = segment + 1;
    segment = number; /* the one before may go too, if it must */
    keep_bound(segment_most);
    while (!open_segment(number))
        if (!no_room(errno) || !drop_oldest()) {
            segment = number - 1;
            return false;
        }
    return true;
}

/* Goes on where the run before this one ended; a writer that was killed may have left a torn end. */
static void open_log(long bound)
{
    long oldest, newest, covered = 0, entries = 0;
    struct stat data;
    struct entry one;
    log_bound = bound;
    segment_most = bound / SEGMENTS < SEGMENT_MOST ? bound / SEGMENTS : SEGMENT_MOST;
    survey(&oldest, &newest);
    segment = newest;
    if (newest < 0 || !open_segment(newest)) {
        next_segment();
        return;
    }
    if (fstat(data_fd, &data))
        data.st_size = 0;
    for (;; entries++) {
        if (pread(index_fd, &one, ENTRY, entries * ENTRY) != ENTRY || covered >= data.st_size)
            break;
        long length = one.stream & LOST ? 0 : one.length;
        if (covered + length > data.st_size) {
            one.length = data.st_size - covered;
            length = one.length;
            if (pwrite(index_fd, &one, ENTRY, entries * ENTRY) != ENTRY)
                break;
        }
        covered += length;
    }
    data_bytes = covered;
    index_bytes = entries * ENTRY;
    if (ftruncate(index_fd, index_bytes) || ftruncate(data_fd, data_bytes)) {
        /* what is there too much is written over */
    }
    if (segment_most - data_bytes - index_bytes < LEAST_ROOM)
        next_segment();
    else
        keep_bound(segment_most - data_bytes - index_bytes);
}

static bool put_entry(const struct entry *one, long at) { return pwrite(index_fd, one, ENTRY, at) == ENTRY; }

/* Tells of what was lost, before anything newer is written. */
static bool put_lost(uint64_t now)
{
    for (uint32_t stream = 1; stream <= 2; stream++)
        if (lost[stream]) {
            struct entry mark = {now, lost[stream] < UINT32_MAX ? lost[stream] : UINT32_MAX, LOST | stream};
            if (!put_entry(&mark, index_bytes))
                return false;
            index_bytes += ENTRY;
            have_last = false;
            lost[stream] -= mark.length;
        }
    return true;
}

/* Writes some of the bytes and says how many: 0 with errno when none could be. */
static long put_some(uint32_t stream, const char *bytes, long count)
{
    uint64_t now = clock_ms(CLOCK_REALTIME);
    if (!put_lost(now))
        return 0;
    bool grows = have_last && last.stream == stream && now >= last.ms && now - last.ms < MERGE_MS;
    long room = segment_most - data_bytes - index_bytes - (grows ? 0 : ENTRY);
    struct entry one = {now, 0, stream};
    if (grows)
        one = last;
    uint32_t before = one.length;
    long at = grows ? index_bytes - ENTRY : index_bytes;
    if (count > room)
        count = room;
    one.length += count;
    if (!put_entry(&one, at))
        return 0;
    long written = pwrite(data_fd, bytes, count, data_bytes);
    if (written < count) {
        int error = errno;
        one.length = before + (written > 0 ? written : 0);
        if (one.length) {
            put_entry(&one, at);
        } else if (ftruncate(index_fd, index_bytes)) {
            /* an entry without bytes: no reader goes beyond the data */
        }
        if (written <= 0) {
            errno = error;
            return 0;
        }
    }
    data_bytes += written;
    index_bytes = at + ENTRY;
    last = one;
    have_last = true;
    return written;
}

static void put_log(uint32_t stream, const char *bytes, long count)
{
    while (count > 0) {
        if (index_fd < 0 && !next_segment()) {
            lost[stream] += count;
            return;
        }
        long written = put_some(stream, bytes, count);
        if (written > 0) {
            bytes += written;
            count -= written;
        } else if (!no_room(errno) || !drop_oldest()) {
            lost[stream] += count;
            return;
        }
        /* As soon as a segment is full: a reader that waits sees it grow, and looks for the next. */
        if (segment_most - data_bytes - index_bytes < LEAST_ROOM)
            next_segment();
    }
}

/* ---- processes ---- */

static pid_t child;
static pid_t *found;
static size_t found_count, found_room;

static void note(pid_t pid)
{
    if (found_count == found_room) {
        size_t room = found_room ? found_room * 2 : 64;
        pid_t *more = realloc(found, room * sizeof *more);
        if (!more)
            return; /* the next round finds it */
        found = more;
        found_room = room;
    }
    found[found_count++] = pid;
}

/* Notes the children of a thread; false where the kernel has no such file. */
static bool note_listed(const char *path)
{
    char text[4096];
    size_t kept = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno != ENOENT;
    for (ssize_t got; (got = read(fd, text + kept, sizeof text - 1 - kept)) > 0;) {
        text[kept += got] = 0;
        char *at = text, *end;
        while ((end = strchr(at, ' '))) {
            note(atoi(at));
            at = end + 1;
        }
        kept = strlen(at);
        memmove(text, at, kept + 1);
    }
    close(fd);
    return true;
}

static void note_children(pid_t parent)
{
    char path[sizeof "/proc//task//children" + 300];
    snprintf(path, sizeof path, "/proc/%d/task", parent);
    bool scan = access("/proc/self/task", R_OK) == 0 && access("/proc/thread-self/children", R_OK) != 0;
    DIR *folder = opendir(scan ? "/proc" : path);
    for (struct dirent *item; folder && (item = readdir(folder));) {
        long of = 0;
        unsigned long long start;
        if (item->d_name[0] < '1' || item->d_name[0] > '9')
            continue;
        if (scan) {
            if (process_facts(atoi(item->d_name), &of, &start) && of == parent)
                note(atoi(item->d_name));
            continue;
        }
        snprintf(path, sizeof path, "/proc/%d/task/%s/children", parent, item->d_name);
        note_listed(path);
    }
    if (folder)
        closedir(folder);
}

/* Sends a signal to every descendant outside the child's own group; no pid that was reused meanwhile gets it. */
static void signal_escaped(int number)
{
    found_count = 0;
    note_children(getpid());
    for (size_t i = 0; i < found_count; i++) {
        pid_t pid = found[i];
        unsigned long long start, again;
        long parent, later;
        if (pid == child || !process_facts(pid, &parent, &start))
            continue;
        if (getpgid(pid) != child) {
            int fd = syscall(SYS_pidfd_open, pid, 0);
            if (fd >= 0 && process_facts(pid, &later, &again) && again == start) {
                syscall(SYS_pidfd_send_signal, fd, number, NULL, 0);
                syscall(SYS_pidfd_send_signal, fd, SIGCONT, NULL, 0);
            }
            if (fd >= 0)
                close(fd);
        }
        note_children(pid);
    }
}

/* Direct children are nobody else's to reap: neither their pids nor their groups can be reused here, and a group
   dies at once, forks included. What they leave behind is a direct child in the next round. */
static void kill_round(void)
{
    found_count = 0;
    note_children(getpid());
    for (size_t i = 0; i < found_count; i++) {
        pid_t group = getpgid(found[i]);
        if (group > 1 && group != getpgrp())
            kill(-group, SIGKILL);
        kill(found[i], SIGKILL);
    }
}

static bool main_ended;

static void put_exit(const siginfo_t *how)
{
    char text[LINE_BYTES];
    bool exited = how->si_code == CLD_EXITED;
    snprintf(text, sizeof text, "%s %d %d %lld", exited ? "exit" : "signal", how->si_status, how->si_code == CLD_DUMPED,
             (long long)clock_ms(CLOCK_REALTIME));
    put_status(EXIT_AT, LINE_BYTES, text);
}

/* Reaps what has ended, but not the child: while it is a zombie its pid and its group are nobody else's. True as long
   as anything else lives. */
static bool reap(void)
{
    bool others, reaped;
    while (!main_ended) {
        siginfo_t how = {0};
        if (waitid(P_ALL, 0, &how, WEXITED | WNOHANG | WNOWAIT) || how.si_pid == 0)
            return true;
        if (how.si_pid == child) {
            main_ended = true;
            put_exit(&how);
        } else
            waitpid(how.si_pid, NULL, WNOHANG);
    }
    do { /* whose parent was reaped is a child in the next look */
        others = reaped = false;
        found_count = 0;
        note_children(getpid());
        for (size_t i = 0; i < found_count; i++)
            if (found[i] != child) {
                if (waitpid(found[i], NULL, WNOHANG) == 0)
                    others = true;
                else
                    reaped = true;
            }
    } while (reaped);
    return others;
}

/* ---- the start ---- */

static bool take_long(char **at, char *end, long *value)
{
    char *stop;
    if (*at >= end)
        return false;
    *value = strtol(*at, &stop, 10);
    if (stop == *at || *stop)
        return false;
    *at = stop + 1;
    return true;
}

static char **take_list(char **at, char *end)
{
    long count;
    if (!take_long(at, end, &count) || count < 0 || count > end - *at)
        return NULL;
    char **list = calloc(count + 1, sizeof *list);
    for (long i = 0; list && i < count; i++) {
        if (*at >= end)
            return NULL;
        list[i] = *at;
        *at += strlen(*at) + 1;
    }
    return list;
}

static bool take_orders(char *at, char *end, struct orders *orders)
{
    long format;
    if (at == end || end[-1] || !take_long(&at, end, &format) || format != 1 || at >= end)
        return false;
    orders->directory = at;
    at += strlen(at) + 1;
    return take_long(&at, end, &orders->log_bytes) && take_long(&at, end, &orders->stop_signal) &&
           take_long(&at, end, &orders->grace_ms) && take_long(&at, end, &orders->descriptors) &&
           (orders->arguments = take_list(&at, end)) && orders->arguments[0] && (orders->variables = take_list(&at, end));
}

/* execve(2), the program looked for in the child's own PATH; gives the errno that tells most. */
static int execute(char **arguments, char **variables)
{
    const char *program = arguments[0], *path = "/usr/local/bin:/usr/bin:/bin";
    char file[4096 + 256];
    int error = ENOENT;
    if (strchr(program, '/')) {
        execve(program, arguments, variables);
        return errno;
    }
    for (char **variable = variables; *variable; variable++)
        if (!strncmp(*variable, "PATH=", 5))
            path = *variable + 5;
    for (const char *end; *program; path = end + 1) {
        end = strchrnul(path, ':');
        int size = snprintf(file, sizeof file, "%.*s%s%s", (int)(end - path), path, end > path ? "/" : "", program);
        if (size < (int)sizeof file) {
            execve(file, arguments, variables);
            if (errno != ENOENT && errno != ENOTDIR)
                error = errno;
            if (error != ENOENT && error != EACCES)
                break;
        }
        if (!*end)
            break;
    }
    return error;
}

struct failure {
    int error;
    char what[8];
};

/* What the child does until it is the program; it never returns. */
static void become(const struct orders *orders, pid_t shim, const int out[2], const int err[2], int go, int failed)
{
    struct failure failure = {0, "exec"};
    struct sigaction plain = {.sa_handler = SIG_DFL};
    struct rlimit limit;
    sigset_t none;
    char word;
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != shim || read(go, &word, 1) != 1)
        _exit(127);
    for (int number = 1; number < 65; number++)
        sigaction(number, &plain, NULL);
    umask(022);
    if (orders->descriptors >= 0 && !getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = (rlim_t)orders->descriptors < limit.rlim_max ? (rlim_t)orders->descriptors : limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    dup2(out[1], 1);
    dup2(err[1], 2);
    if (chdir(orders->directory)) {
        failure.error = errno;
        strcpy(failure.what, "chdir");
    } else {
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        failure.error = execute(orders->arguments, orders->variables);
    }
    if (write(failed, &failure, sizeof failure) < 0) {
        /* the shim sees an exit code of 127 */
    }
    _exit(127);
}

static void report(int fd, const char *what, int error)
{
    char text[LINE_BYTES];
    int length = snprintf(text, sizeof text, "fail %s %d", what, error);
    if (status_fd >= 0)
        put_status(EXIT_AT, LINE_BYTES, text);
    text[length] = '\n';
    if (write(fd, text, length + 1) < 0) {
        /* the daemon is gone; the status says it */
    }
}

/* Nothing that was open in the daemon stays open here or in the child. */
static void close_others(const int *keep, size_t count)
{
    DIR *folder = opendir("/proc/self/fd");
    for (struct dirent *item; folder && (item = readdir(folder));) {
        int fd = atoi(item->d_name);
        bool kept = fd < 3 || fd == dirfd(folder);
        for (size_t i = 0; i < count; i++)
            kept = kept || fd == keep[i];
        if (!kept)
            close(fd);
    }
    if (folder)
        closedir(folder);
    for (size_t i = 0; i < count; i++)
        fcntl(keep[i], F_SETFD, FD_CLOEXEC);
}

static void put_run(int64_t started_ms, const int out[2], const int err[2])
{
    char text[RUN_BYTES], boot[64] = "-";
    long parent, at_segment = segment, at_index = index_bytes, at_data = data_bytes;
    unsigned long long start = 0, own = 0;
    struct stat first = {0}, second = {0};
    if (read_small("/proc/sys/kernel/random/boot_id", boot, sizeof boot) > 0)
        boot[strcspn(boot, "\n")] = 0;
    process_facts(child, &parent, &start);
    process_facts(getpid(), &parent, &own);
    fstat(out[0], &first);
    fstat(err[0], &second);
    snprintf(text, sizeof text, "run 1 %s %d %llu %lld %d %llu %ld %ld %ld %lu %lu", boot, child, start, (long long)started_ms,
             getpid(), own, at_segment, at_index, at_data, (unsigned long)first.st_ino, (unsigned long)second.st_ino);
    put_status(RUN_AT, RUN_BYTES, text);
}

/* ---- the ladder ---- */

static struct orders orders;
static enum { RUNS, STOPS, KILLS } stage = RUNS;
static int stop_signal;
static int64_t deadline_ms; /* of STOPS */
static int pause_ms;        /* of KILLS */

static void stop(int number, long grace_ms)
{
    int64_t until = clock_ms(CLOCK_MONOTONIC) + grace_ms;
    if (stage == RUNS || (stage == STOPS && number != stop_signal)) {
        kill(-child, number);
        kill(-child, SIGCONT); /* what is stopped (SIGSTOP) ends nothing */
        if (main_ended)
            signal_escaped(number);
    }
    if (stage == RUNS || until < deadline_ms)
        deadline_ms = until;
    if (stage == RUNS)
        stage = STOPS;
    stop_signal = number;
}

static void obey(int control)
{
    static char text[512];
    static size_t have;
    ssize_t got = read(control, text + have, sizeof text - 1 - have);
    char *at = text, *end;
    if (got <= 0)
        return;
    text[have += got] = 0;
    for (; (end = strchr(at, '\n')); at = end + 1) {
        int number;
        long grace_ms;
        *end = 0;
        if (sscanf(at, "stop %d %ld", &number, &grace_ms) == 2)
            stop(number < 0 ? (int)orders.stop_signal : number, grace_ms < 0 ? orders.grace_ms : grace_ms);
        else if (sscanf(at, "signal %d", &number) == 1)
            kill(-child, number);
        else if (!strcmp(at, "kill"))
            stop(SIGKILL, 0);
    }
    have = strlen(at);
    if (have == sizeof text - 1)
        have = 0; /* no command is that long */
    memmove(text, at, have);
}

/* Moves on; gives how long poll(2) may sleep. */
static int climb(void)
{
    if (stage == RUNS)
        return -1;
    int64_t left = deadline_ms - clock_ms(CLOCK_MONOTONIC);
    if (stage == STOPS && left > 0)
        return left < 60000 ? (int)left + 1 : 60000;
    if (stage == STOPS)
        pause_ms = 1;
    stage = KILLS;
    kill_round();
    pause_ms = pause_ms < KILL_AGAIN_MS ? pause_ms * 2 : KILL_AGAIN_MS; /* what may not be killed costs little */
    return pause_ms / 2;
}

/* ---- the life ---- */

static struct pollfd ends[4]; /* standard output, standard error, signals, control */

/* Takes what a pipe has, at most a chunk; false when there is nothing now. */
static bool pump(int which)
{
    ssize_t got = read(ends[which].fd, chunk, sizeof chunk);
    if (got > 0) {
        put_log(which + 1, chunk, got);
        return true;
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(ends[which].fd);
        ends[which].fd = -1;
    }
    return false;
}

static void live(void)
{
    for (;;) {
        bool ended = main_ended, others = reap();
        if (main_ended && !others)
            return;
        if (main_ended && !ended) {
            if (stage == RUNS)
                stop(orders.stop_signal, orders.grace_ms);
            else if (stage == STOPS)
                signal_escaped(stop_signal);
        }
        if (poll(ends, 4, climb()) < 0)
            continue;
        for (int i = 0; i < 2; i++)
            if (ends[i].fd >= 0 && ends[i].revents)
                pump(i);
        if (ends[2].revents) {
            struct signalfd_siginfo which;
            while (read(ends[2].fd, &which, sizeof which) > 0)
                continue;
        }
        if (ends[3].revents)
            obey(ends[3].fd);
    }
}

/* Everything that the child wrote is in the pipes by now. Who got a descriptor from it and lives elsewhere is not waited for. */
static void drain(void)
{
    int64_t until = clock_ms(CLOCK_MONOTONIC) + DRAIN_MS;
    for (int i = 0; i < 2; i++)
        while (ends[i].fd >= 0 && pump(i) && clock_ms(CLOCK_MONOTONIC) < until)
            continue;
    if (index_fd >= 0 && put_lost(clock_ms(CLOCK_REALTIME))) {
        /* the last word of the log */
    }
}

static int begin(int orders_fd, int report_fd)
{
    int out[2], err[2], go[2], failed[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct failure failure;
    struct stat file;
    pid_t shim = getpid();
    if (fstat(orders_fd, &file) || file.st_size == 0)
        return EINVAL;
    char *text = mmap(NULL, file.st_size, PROT_READ, MAP_PRIVATE, orders_fd, 0);
    if (text == MAP_FAILED || !take_orders(text, text + file.st_size, &orders))
        return EINVAL;
    if (null < 0 || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) || pipe2(go, O_CLOEXEC) || pipe2(failed, O_CLOEXEC))
        return errno;
    open_log(orders.log_bytes);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
    int64_t started_ms = clock_ms(CLOCK_REALTIME);
    child = fork();
    if (child < 0)
        return errno;
    if (child == 0) {
        close(go[1]); /* or the end of the shim would not end the wait */
        become(&orders, shim, out, err, go[0], failed[1]);
    }
    /* The status names the child before it is the program: what runs is always known. */
    put_run(started_ms, out, err);
    close(out[1]);
    close(err[1]);
    close(failed[1]);
    close(go[0]);
    if (write(go[1], "", 1) != 1)
        return errno;
    close(go[1]);
    if (read(failed[0], &failure, sizeof failure) == sizeof failure) {
        waitpid(child, NULL, 0);
        report(report_fd, failure.what, failure.error);
        exit(1);
    }
    close(failed[0]);
    munmap(text, file.st_size);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    ends[0] = (struct pollfd){out[0], POLLIN, 0};
    ends[1] = (struct pollfd){err[0], POLLIN, 0};
    return 0;
}

int main(int count, char **words)
{
    if (count != 7)
        return 2;
    int keep[5];
    for (int i = 0; i < 5; i++)
        keep[i] = atoi(words[2 + i]);
    int report_fd = keep[1], error;
    run_fd = keep[2];
    log_fd = keep[3];
    sigset_t all, ended;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL); /* SIGKILL and SIGSTOP alone reach the shim */
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    signal(SIGCHLD, SIG_DFL); /* ignored, children would reap themselves */
    umask(077);
    close_others(keep, 5);
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (chdir("/")) {
        /* then the daemon's directory stays in use */
    }
    status_fd = openat(run_fd, "status", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    int signals = signalfd(-1, &ended, SFD_CLOEXEC | SFD_NONBLOCK);
    int control = openat(run_fd, "control", O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (status_fd < 0 || signals < 0 || control < 0)
        error = errno;
    else
        error = begin(keep[0], report_fd);
    if (error) {
        report(report_fd, "shim", error);
        return 2;
    }
    ends[2] = (struct pollfd){signals, POLLIN, 0};
    ends[3] = (struct pollfd){control, POLLIN, 0};
    if (write(report_fd, "ok\n", 3) < 0) {
        /* the daemon is gone; another takes the child over */
    }
    close(report_fd);
    live();
    drain();
    waitpid(child, NULL, 0);
    while (waitpid(-1, NULL, WNOHANG) >= 0) {
        kill_round(); /* nobody is left by now, but a pid is not to be trusted */
        poll(NULL, 0, 1);
    }
    char text[LINE_BYTES];
    snprintf(text, sizeof text, "done %lld", (long long)clock_ms(CLOCK_REALTIME));
    put_status(DONE_AT, LINE_BYTES, text);
    return 0;
}
