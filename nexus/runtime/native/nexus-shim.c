/* nexus-shim LABEL SPEC_FD REPORT_FD RUN_FD LOG_FD LOCK_FD [INPUT_FD]
   nexus-shim --command LABEL SPEC_FD CONTROL_FD [FD...]

   The shim is the parent of one child and outlives the daemon. It starts the child in a session of its own, keeps the
   child's output within a bound, adopts all descendants that the child leaves behind, completes a stop that was
   requested, and records how the child exited. It knows no protocol; LABEL is for ps(1). ../shim.py does the same where
   no compiler was available: every change must be made in both.

   SPEC_FD     a memfd named "orders" with what to start, as strings that each end with a NUL byte: format "3",
               directory, bound of the log in bytes, stop signal, grace time in ms, soft limit of descriptors (-1: not
               changed), umask (decimal), standard input (0: INPUT_FD or /dev/null; 1: open; 2: a terminal), number of
               arguments, the arguments, number of variables, the variables. So neither ps nor /proc shows them as the
               shim's own. The descriptor stays open, so that the daemon can read back what the child was started with.
               Formats of older daemons: "2" has no standard input, which is 0; "1" has no umask either, which is 022.
   REPORT_FD   a pipe that gets one line: "ok", or "fail STEP ERRNO", where STEP is chdir, exec or shim.
   RUN_FD      the run's folder. status: a file that is allocated by the daemon and written in place, so that a full
               disk loses no exit code. control: a FIFO that takes the commands "stop SIGNAL GRACE_MS" (-1: the spec's
               value), "signal SIGNAL" and "kill".
   LOG_FD      the folder of the log, and LOCK_FD a file; both have an flock that is held until the shim exits.
   INPUT_FD    a file, memfd or pipe that becomes the child's standard input, with the offset that it has. The shim does
               not keep it.

   The status file: at 0 "run 1 BOOT_ID PID PID_START STARTED_MS SHIM SHIM_START SEGMENT INDEX_BYTES DATA_BYTES PIPE
   PIPE", where the START of a process is the one in /proc/PID/stat, SEGMENT to DATA_BYTES is the end of the log at the
   start, and PIPE are the inodes of the child's two pipes for output; at 256 "exit CODE 0 MS", "signal NUMBER CORE MS"
   or "fail STEP ERRNO"; at 384 "done MS". Behind the two pipes comes that of an open standard input. With a terminal
   all three are 0, and behind them is the terminal: the device number of the slave, and the time of its making (its
   ctime in ns), since the number is used again. Readers ignore words behind those that they know.

   The log: N.log holds bytes, N.idx holds entries of 16 bytes, {u64 ms, u32 length, u32 stream}. An entry is written
   before its bytes, and may grow while it is the last one: a reader may use what is in both files. Stream 0x80 | s
   marks bytes of stream s that were lost because the disk was full. A pair of entries with the streams 0x40 | 1 and
   0x40 | 2 is written before the first output of each segment but segment 0, and of each run: instead of a time it has
   how many bytes the stream had before, those that were lost included, and its length is 1 if a run begins here. Either
   mark has 0x20 set, too, if the stream's next byte is within a line. So a reader knows the size of what was deleted.

   Attached clients: the shim of a child with a terminal or an open standard input listens on "attach" in the run's
   folder, a SOCK_SEQPACKET socket, until all processes of the run have ended. Each message begins with a letter;
   numbers in it are big-endian. Whoever reads a message ignores bytes behind those that it knows. From a client:
     H 1 FLAGS ROWS COLUMNS  the first message: "1" is the version. FLAGS is a byte: 1 for output, 2 for a replay. ROWS
                             and COLUMNS, of two bytes each, are the size of its terminal, or 0.
     I BYTES                 input, 16 KiB at most.
     S ROWS COLUMNS          the new size of its terminal.
     E                       end of file: closes the pipe behind all input before it; types the character of the
                             terminal that means it (stty eof).
   From the shim:
     X                       refused: 16 clients are attached. The connection is closed.
     W 1 TERMINAL            the answer to H: the version, and a byte that is 1 where there is a terminal.
     R STREAM CUT BYTES      replay: of the last 64 KiB of output, in their order. CUT is 1 where there was more before.
     L                       the replay is complete. Output that follows has no gap to it.
     O STREAM BYTES          output.
     E                       the program and all that it left behind have ended, and all output was sent.
   The terminal has the smallest rows and columns of the attached clients; the last client leaves its size behind. A
   client that comes with the size that the terminal has causes a SIGWINCH all the same. While the program takes no
   input, a client's further messages stay in its socket. Where the program has closed its standard input, or a client
   has, the clients' sockets are shut down for writing. A client that does not read its output is closed without E once
   1 MiB is kept for it, and a client is closed that sends anything else.

   With --command the child is a short-lived one, which ends with the daemon. It gets the shim's own standard output and
   error and the descriptors FD; there is no run folder and no log. When the child has ended, or CONTROL_FD is closed by
   the daemon or with it, everything that is left of the child is killed, and the shim ends.

   CONTROL_FD  a SOCK_SEQPACKET socket whose other end only the daemon has. It takes "signal SIGNAL", for the child's
               process group, and gets "ok PID" or "fail STEP ERRNO", and then "exit CODE 0 MS" or "signal NUMBER CORE
               MS" as soon as the child has ended.

   This file is longer than the project's usual 500 lines because it is the whole program: the package's build compiles
   it alone, without a library or a makefile. Its parts, each of which uses only those before it: times and small files;
   the log writer; finding, signalling and reaping processes; the spec and executing the program; the stop sequence;
   attached clients; the main loop; starting the child; short-lived children; main. */
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
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
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
    CHUNK_BYTES = 64 * 1024,
    ENTRY_BYTES = 16,
    MIN_SEGMENTS = 8,    /* of a full log */
    MAX_SEGMENT_BYTES = 32 * 1024 * 1024, /* bounds what a reader must scan of one index */
    MIN_FREE_BYTES = 128, /* a segment with less is full: four marks and an entry with its bytes must fit */
    MERGE_MS = 2,        /* output of a stream that arrives within this time shares an entry */
    RUN_AT = 0, RUN_BYTES = 256, EXIT_AT = 256, DONE_AT = 384, LINE_BYTES = 128,
    MAX_KILL_PAUSE_MS = 250, /* between two rounds of SIGKILL */
    MAX_COMMAND_FDS = 64,    /* of a short-lived child */
    DRAIN_MS = 1000,     /* the most that is spent on a pipe that a process outside still writes to */
    LOST = 0x80, MARK = 0x40, WITHIN_LINE = 0x20,
    INPUT_GIVEN = 0, INPUT_OPEN = 1, INPUT_TERMINAL = 2, /* what the child's standard input is */
    MAX_CLIENTS = 16,
    MAX_PLACES = 2 * MAX_CLIENTS,    /* clients that are gone have some, while the program takes their input */
    MESSAGE_BYTES = 16 * 1024,       /* of output or input in one message */
    HELLO_BYTES = 7, SIZE_BYTES = 5,
    MAX_BACKLOG_BYTES = 1024 * 1024, /* of a client that does not read */
    RING_BYTES = CHUNK_BYTES,
    RING_PARTS = 1024,
    LISTEN_BACKLOG = 64,
    ACCEPT_PAUSE_MS = 1000, /* where no descriptor is left for another client */
};

struct spec {
    char *directory, **arguments, **variables;
    long log_bytes, stop_signal, grace_ms, descriptor_limit, umask, input;
};

struct entry {
    uint64_t ms;
    uint32_t length, stream;
};

static char chunk[CHUNK_BYTES];
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

/* Reads the parent and the start time of a process; false when it has ended. */
static bool read_stat(pid_t pid, long *parent, unsigned long long *start)
{
    char path[64], text[1024], *after;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (read_small(path, text, sizeof text) <= 0 || !(after = strrchr(text, ')')))
        return false; /* the name may contain blanks and brackets, so fields are counted from the last bracket */
    return sscanf(after + 1, " %*c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", parent,
                  start) == 2;
}

/* Writes a line into allocated space with one call, so that a reader never sees half of it. */
static void write_status(off_t at, size_t size, const char *text)
{
    char line[RUN_BYTES];
    size_t length = strlen(text);
    memset(line, ' ', size);
    memcpy(line, text, length < size - 1 ? length : size - 1);
    line[size - 1] = '\n';
    if (pwrite(status_fd, line, size, at) < 0) {
        /* there is nowhere to report it */
    }
}

/* ---- the log writer ---- */

static int data_fd = -1, index_fd = -1;
static long segment = -1, data_bytes, index_bytes, segment_bound, log_bound;
static struct entry last;
static bool have_last;
static uint64_t lost[3], total[3]; /* bytes of each stream: lost and not marked yet; in the log since it began */
static bool within_line[3], marks_due, run_begins;

static bool is_disk_full(int error) { return error == ENOSPC || error == EDQUOT; }

static void segment_name(char *name, size_t size, long number, const char *kind)
{
    snprintf(name, size, "%ld.%s", number, kind);
}

/* The size of the log, its first and its last segment (-1 where there is none). */
static long scan_segments(long *oldest, long *newest)
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
    scan_segments(&oldest, &newest);
    if (oldest < 0 || oldest == segment)
        return false;
    segment_name(name, sizeof name, oldest, "idx");
    bool first = unlinkat(log_fd, name, 0) == 0;
    segment_name(name, sizeof name, oldest, "log");
    return (unlinkat(log_fd, name, 0) == 0) || first;
}

/* Deletes the oldest segments until the log can grow by SIZE bytes. */
static void enforce_bound(long size)
{
    long oldest, newest;
    while (scan_segments(&oldest, &newest) + size > log_bound && drop_oldest())
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
    marks_due = number > 0;
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
    segment = number; /* so that drop_oldest may delete the previous segment, too */
    enforce_bound(segment_bound);
    while (!open_segment(number))
        if (!is_disk_full(errno) || !drop_oldest()) {
            segment = number - 1;
            return false;
        }
    return true;
}

static void count_entry(const struct entry *entry)
{
    uint32_t stream = entry->stream & 3;
    total[stream % 3] = entry->stream & MARK ? entry->ms : total[stream % 3] + entry->length;
}

static void count_segment(long number)
{
    char name[40];
    struct entry entry;
    segment_name(name, sizeof name, number, "idx");
    int fd = openat(log_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    for (off_t at = 0; fd >= 0 && pread(fd, &entry, ENTRY_BYTES, at) == ENTRY_BYTES; at += ENTRY_BYTES)
        count_entry(&entry);
    if (fd >= 0)
        close(fd);
}

/* Continues after the previous run's output; repairs a torn end that a killed writer may have left. */
static void open_log(long bound)
{
    long oldest, newest, covered = 0, entries = 0;
    struct stat data;
    struct entry entry;
    log_bound = bound;
    segment_bound = bound / MIN_SEGMENTS < MAX_SEGMENT_BYTES ? bound / MIN_SEGMENTS : MAX_SEGMENT_BYTES;
    scan_segments(&oldest, &newest);
    segment = newest;
    if (newest < 0 || !open_segment(newest)) {
        next_segment();
        run_begins = newest >= 0;
        return;
    }
    if (fstat(data_fd, &data))
        data.st_size = 0;
    if (pread(index_fd, &entry, ENTRY_BYTES, 0) != ENTRY_BYTES || !(entry.stream & MARK))
        count_segment(newest - 1);
    for (;; entries++) {
        if (pread(index_fd, &entry, ENTRY_BYTES, entries * ENTRY_BYTES) != ENTRY_BYTES)
            break;
        bool mark = entry.stream & (LOST | MARK);
        if (!mark && covered >= data.st_size)
            break;
        long length = mark ? 0 : entry.length;
        if (covered + length > data.st_size) {
            entry.length = data.st_size - covered;
            length = entry.length;
            if (pwrite(index_fd, &entry, ENTRY_BYTES, entries * ENTRY_BYTES) != ENTRY_BYTES)
                break;
        }
        covered += length;
        count_entry(&entry);
    }
    data_bytes = covered;
    index_bytes = entries * ENTRY_BYTES;
    if (ftruncate(index_fd, index_bytes) || ftruncate(data_fd, data_bytes)) {
        /* the excess is overwritten */
    }
    if (segment_bound - data_bytes - index_bytes < MIN_FREE_BYTES)
        next_segment();
    else
        enforce_bound(segment_bound - data_bytes - index_bytes);
    marks_due = run_begins = true;
}

static bool write_entries(const struct entry *entries, size_t size, long at)
{
    ssize_t written = pwrite(index_fd, entries, size, at);
    if (written >= 0 && written != (ssize_t)size)
        errno = ENOSPC;
    return written == (ssize_t)size;
}

static bool write_entry(const struct entry *entry, long at) { return write_entries(entry, ENTRY_BYTES, at); }

/* Writes the marks that must precede newer output: where the segment or the run begins, and what was lost. */
static bool write_marks(uint64_t now)
{
    uint32_t within[3];
    for (uint32_t stream = 1; stream <= 2; stream++)
        within[stream] = stream | (within_line[stream] ? WITHIN_LINE : 0);
    if (marks_due) {
        struct entry marks[2] = {{total[1], run_begins, MARK | within[1]}, {total[2], run_begins, MARK | within[2]}};
        if (!write_entries(marks, sizeof marks, index_bytes))
            return false;
        index_bytes += sizeof marks;
        have_last = marks_due = run_begins = false;
    }
    for (uint32_t stream = 1; stream <= 2; stream++)
        if (lost[stream]) {
            struct entry mark = {now, lost[stream] < UINT32_MAX ? lost[stream] : UINT32_MAX, LOST | within[stream]};
            if (!write_entry(&mark, index_bytes))
                return false;
            index_bytes += ENTRY_BYTES;
            have_last = false;
            lost[stream] -= mark.length;
            total[stream] += mark.length;
        }
    return true;
}

static void lose(uint32_t stream, const char *bytes, long count)
{
    lost[stream] += count;
    within_line[stream] = bytes[count - 1] != '\n';
}

/* Writes some of the bytes and returns how many: 0 with errno set when none could be written. */
static long append_some(uint32_t stream, const char *bytes, long count)
{
    uint64_t now = clock_ms(CLOCK_REALTIME);
    if (!write_marks(now))
        return 0;
    bool grows = have_last && last.stream == stream && now >= last.ms && now - last.ms < MERGE_MS;
    long room = segment_bound - data_bytes - index_bytes - (grows ? 0 : ENTRY_BYTES);
    struct entry entry = {now, 0, stream};
    if (grows)
        entry = last;
    uint32_t before = entry.length;
    long at = grows ? index_bytes - ENTRY_BYTES : index_bytes;
    if (count > room)
        count = room;
    entry.length += count;
    if (!write_entry(&entry, at))
        return 0;
    long written = pwrite(data_fd, bytes, count, data_bytes);
    if (written < count) {
        int error = errno;
        entry.length = before + (written > 0 ? written : 0);
        if (entry.length) {
            write_entry(&entry, at);
        } else if (ftruncate(index_fd, index_bytes)) {
            /* the entry has no bytes, which readers skip */
        }
        if (written <= 0) {
            errno = error;
            return 0;
        }
    }
    data_bytes += written;
    index_bytes = at + ENTRY_BYTES;
    last = entry;
    have_last = true;
    total[stream] += written;
    within_line[stream] = bytes[written - 1] != '\n';
    return written;
}

/* Appends output. While the disk is full the oldest segments are deleted, and then the new bytes are lost. */
static void append(uint32_t stream, const char *bytes, long count)
{
    while (count > 0) {
        /* While the disk is full, marks alone can fill a segment. */
        bool full = index_fd >= 0 && segment_bound - data_bytes - index_bytes < MIN_FREE_BYTES;
        if ((index_fd < 0 || full) && !next_segment()) {
            lose(stream, bytes, count);
            return;
        }
        long written = append_some(stream, bytes, count);
        if (written > 0) {
            bytes += written;
            count -= written;
        } else if (!is_disk_full(errno) || !drop_oldest()) {
            lose(stream, bytes, count);
            return;
        }
        /* Opened as soon as the segment is full: a waiting reader sees it grow, and checks for the next segment. */
        if (segment_bound - data_bytes - index_bytes < MIN_FREE_BYTES)
            next_segment();
    }
}

/* ---- processes ---- */

static pid_t child;
static pid_t *found;
static size_t found_count, found_capacity;

static void add_found(pid_t pid)
{
    if (found_count == found_capacity) {
        size_t capacity = found_capacity ? found_capacity * 2 : 64;
        pid_t *larger = realloc(found, capacity * sizeof *larger);
        if (!larger)
            return; /* the next round finds it */
        found = larger;
        found_capacity = capacity;
    }
    found[found_count++] = pid;
}

/* Adds the children of a thread; false where the kernel has no such file. */
static bool add_listed_children(const char *path)
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
            add_found(atoi(at));
            at = end + 1;
        }
        kept = strlen(at);
        memmove(text, at, kept + 1);
    }
    close(fd);
    return true;
}

/* Adds the children of a process; scans /proc where the kernel was built without the children files. */
static void add_children(pid_t parent)
{
    char path[sizeof "/proc//task//children" + 300];
    snprintf(path, sizeof path, "/proc/%d/task", parent);
    bool scan = access("/proc/self/task", R_OK) == 0 && access("/proc/thread-self/children", R_OK) != 0;
    DIR *folder = opendir(scan ? "/proc" : path);
    for (struct dirent *item; folder && (item = readdir(folder));) {
        long its_parent = 0;
        unsigned long long start;
        if (item->d_name[0] < '1' || item->d_name[0] > '9')
            continue;
        if (scan) {
            if (read_stat(atoi(item->d_name), &its_parent, &start) && its_parent == parent)
                add_found(atoi(item->d_name));
            continue;
        }
        snprintf(path, sizeof path, "/proc/%d/task/%s/children", parent, item->d_name);
        add_listed_children(path);
    }
    if (folder)
        closedir(folder);
}

/* Sends a signal to every descendant outside the child's own group; pidfds rule out pids that were reused meanwhile. */
static void signal_escaped(int number)
{
    found_count = 0;
    add_children(getpid());
    for (size_t i = 0; i < found_count; i++) {
        pid_t pid = found[i];
        unsigned long long start, again;
        long parent, later;
        if (pid == child || !read_stat(pid, &parent, &start))
            continue;
        if (getpgid(pid) != child) {
            int fd = syscall(SYS_pidfd_open, pid, 0);
            if (fd >= 0 && read_stat(pid, &later, &again) && again == start) {
                syscall(SYS_pidfd_send_signal, fd, number, NULL, 0);
                syscall(SYS_pidfd_send_signal, fd, SIGCONT, NULL, 0);
            }
            if (fd >= 0)
                close(fd);
        }
        add_children(pid);
    }
}

/* Kills the direct children and their process groups. Only the shim can reap its direct children, so neither their pids
   nor their groups can be reused here. A group dies at once, including processes that are forking. Processes that the
   killed ones leave behind are direct children in the next round. */
static void kill_round(void)
{
    found_count = 0;
    add_children(getpid());
    for (size_t i = 0; i < found_count; i++) {
        pid_t group = getpgid(found[i]);
        if (group > 1 && group != getpgrp())
            kill(-group, SIGKILL);
        kill(found[i], SIGKILL);
    }
}

static bool child_exited;

struct failure {
    int error;
    char step[8];
};

static int control_fd = -1; /* of a short-lived child: the socket to the daemon */
static int failed_fd = -1;  /* of a short-lived child: a pipe that is closed by execve(2), or gets the failure */

static void report_failure(int fd, const char *step, int error);

static void report(const char *text)
{
    if (write(control_fd, text, strlen(text)) < 0) {
        /* the daemon has ended */
    }
}

/* Tells the daemon whether a short-lived child has executed its program, once that is known. */
static void report_start(void)
{
    struct failure failure;
    char text[LINE_BYTES];
    ssize_t got = failed_fd < 0 ? -1 : read(failed_fd, &failure, sizeof failure);
    if (got < 0)
        return;
    close(failed_fd);
    failed_fd = -1;
    if (got == sizeof failure) {
        report_failure(control_fd, failure.step, failure.error);
        return;
    }
    snprintf(text, sizeof text, "ok %d", child);
    report(text);
}

static void write_exit(const siginfo_t *info)
{
    char text[LINE_BYTES];
    bool exited = info->si_code == CLD_EXITED;
    snprintf(text, sizeof text, "%s %d %d %lld", exited ? "exit" : "signal", info->si_status, info->si_code == CLD_DUMPED,
             (long long)clock_ms(CLOCK_REALTIME));
    if (control_fd < 0) {
        write_status(EXIT_AT, LINE_BYTES, text);
        return;
    }
    report_start(); /* the child has closed the pipe by now */
    report(text);
}

/* Reaps ended processes except the child: while the child is a zombie, its pid and its group cannot be reused. Returns
   whether other processes are alive; true, too, while the child is. */
static bool reap(void)
{
    bool others, reaped;
    while (!child_exited) {
        siginfo_t info = {0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid == 0)
            return true;
        if (info.si_pid == child) {
            child_exited = true;
            write_exit(&info);
        } else
            waitpid(info.si_pid, NULL, WNOHANG);
    }
    do { /* repeated, since a process whose parent was reaped becomes a direct child */
        others = reaped = false;
        found_count = 0;
        add_children(getpid());
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

/* ---- the spec and executing the program ---- */

static bool parse_long(char **at, char *end, long *value)
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

static char **parse_list(char **at, char *end)
{
    long count;
    if (!parse_long(at, end, &count) || count < 0 || count > end - *at)
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

static bool parse_spec(char *at, char *end, struct spec *spec)
{
    long format;
    if (at == end || end[-1] || !parse_long(&at, end, &format) || format < 1 || format > 3 || at >= end)
        return false;
    spec->directory = at;
    spec->umask = 022;
    spec->input = INPUT_GIVEN;
    at += strlen(at) + 1;
    return parse_long(&at, end, &spec->log_bytes) && parse_long(&at, end, &spec->stop_signal) &&
           parse_long(&at, end, &spec->grace_ms) && parse_long(&at, end, &spec->descriptor_limit) &&
           (format < 2 || parse_long(&at, end, &spec->umask)) && (format < 3 || parse_long(&at, end, &spec->input)) &&
           spec->input >= INPUT_GIVEN && spec->input <= INPUT_TERMINAL && (spec->arguments = parse_list(&at, end)) && spec->arguments[0] &&
           (spec->variables = parse_list(&at, end));
}

/* Calls execve(2), with the program looked up in the child's own PATH. Returns the most informative errno: that of a
   file that was found rather than ENOENT. */
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

/* Runs in the forked child: waits for the shim's go-ahead, if go is not -1, and executes the program, with these
   descriptors as its standard input, output and error. Never returns. */
static void exec_child(const struct spec *spec, pid_t shim, const int standard[3], int go, int failed)
{
    struct failure failure = {0, "exec"};
    struct sigaction by_default = {.sa_handler = SIG_DFL};
    struct rlimit limit;
    sigset_t none;
    char byte;
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != shim || (go >= 0 && read(go, &byte, 1) != 1))
        _exit(127);
    for (int number = 1; number < 65; number++)
        sigaction(number, &by_default, NULL);
    umask(spec->umask);
    if (spec->descriptor_limit >= 0 && !getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = (rlim_t)spec->descriptor_limit < limit.rlim_max ? (rlim_t)spec->descriptor_limit : limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    for (int fd = 0; fd < 3; fd++)
        dup2(standard[fd], fd);
    if (spec->input == INPUT_TERMINAL && ioctl(0, TIOCSCTTY, 0)) {
        failure.error = errno;
        strcpy(failure.step, "shim");
    } else if (chdir(spec->directory)) {
        failure.error = errno;
        strcpy(failure.step, "chdir");
    } else {
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        failure.error = execute(spec->arguments, spec->variables);
    }
    if (write(failed, &failure, sizeof failure) < 0) {
        /* the shim sees an exit code of 127 */
    }
    _exit(127);
}

static void report_failure(int fd, const char *step, int error)
{
    char text[LINE_BYTES];
    int length = snprintf(text, sizeof text, "fail %s %d", step, error);
    if (status_fd >= 0)
        write_status(EXIT_AT, LINE_BYTES, text);
    text[length] = '\n';
    if (write(fd, text, length + 1) < 0) {
        /* the daemon has ended; the status file has it */
    }
}

/* Closes all other descriptors, so that nothing inherited from the daemon stays open here or in the child. */
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

static void write_run(int64_t started_ms, long input, const int child_fds[3])
{
    char text[RUN_BYTES], boot[64] = "-", attached[80] = "";
    long parent, at_segment = segment, at_index = index_bytes, at_data = data_bytes;
    unsigned long long start = 0, own = 0;
    struct stat files[3] = {0};
    if (read_small("/proc/sys/kernel/random/boot_id", boot, sizeof boot) > 0)
        boot[strcspn(boot, "\n")] = 0;
    read_stat(child, &parent, &start);
    read_stat(getpid(), &parent, &own);
    for (int i = 0; i < 3; i++)
        fstat(child_fds[i], &files[i]);
    if (input == INPUT_OPEN)
        snprintf(attached, sizeof attached, " %lu", (unsigned long)files[0].st_ino);
    if (input == INPUT_TERMINAL) {
        snprintf(attached, sizeof attached, " 0 %lu %lld", (unsigned long)files[0].st_rdev,
                 files[0].st_ctim.tv_sec * 1000000000LL + files[0].st_ctim.tv_nsec);
        files[1].st_ino = files[2].st_ino = 0;
    }
    snprintf(text, sizeof text, "run 1 %s %d %llu %lld %d %llu %ld %ld %ld %lu %lu%s", boot, child, start,
             (long long)started_ms, getpid(), own, at_segment, at_index, at_data, (unsigned long)files[1].st_ino,
             (unsigned long)files[2].st_ino, attached);
    write_status(RUN_AT, RUN_BYTES, text);
}

/* ---- the stop sequence: signal, grace time, SIGKILL until nothing is left ---- */

static struct spec spec;
static enum { RUNNING, STOPPING, KILLING } stage = RUNNING;
static int stop_signal;
static int64_t deadline_ms; /* when STOPPING becomes KILLING */
static int pause_ms;        /* between two rounds of KILLING */

static void stop(int number, long grace_ms)
{
    int64_t until = clock_ms(CLOCK_MONOTONIC) + grace_ms;
    if (stage == RUNNING || (stage == STOPPING && number != stop_signal)) {
        kill(-child, number);
        kill(-child, SIGCONT); /* a process that was suspended (SIGSTOP) would not handle the signal */
        if (child_exited)
            signal_escaped(number);
    }
    if (stage == RUNNING || until < deadline_ms)
        deadline_ms = until;
    if (stage == RUNNING)
        stage = STOPPING;
    stop_signal = number;
}

static void read_commands(int control)
{
    static char text[512];
    static size_t length;
    ssize_t got = read(control, text + length, sizeof text - 1 - length);
    char *at = text, *end;
    if (got <= 0)
        return;
    text[length += got] = 0;
    for (; (end = strchr(at, '\n')); at = end + 1) {
        int number;
        long grace_ms;
        *end = 0;
        if (sscanf(at, "stop %d %ld", &number, &grace_ms) == 2)
            stop(number < 0 ? (int)spec.stop_signal : number, grace_ms < 0 ? spec.grace_ms : grace_ms);
        else if (sscanf(at, "signal %d", &number) == 1)
            kill(-child, number);
        else if (!strcmp(at, "kill"))
            stop(SIGKILL, 0);
    }
    length = strlen(at);
    if (length == sizeof text - 1)
        length = 0; /* no command is that long */
    memmove(text, at, length);
}

/* Takes the next step of the stop sequence if it is due; returns for how long poll(2) may wait, in ms. */
static int advance_stop(void)
{
    if (stage == RUNNING)
        return -1;
    int64_t left = deadline_ms - clock_ms(CLOCK_MONOTONIC);
    if (stage == STOPPING && left > 0)
        return left < 60000 ? (int)left + 1 : 60000;
    if (stage == STOPPING)
        pause_ms = 1;
    stage = KILLING;
    kill_round();
    /* The pause grows, so that processes that cannot be killed cost little CPU. */
    pause_ms = pause_ms < MAX_KILL_PAUSE_MS ? pause_ms * 2 : MAX_KILL_PAUSE_MS;
    return pause_ms / 2;
}

/* ---- attached clients ---- */

struct client {
    int fd;             /* -1: the place is free */
    bool greeted, wants_output;
    bool gone;          /* it takes no more messages, and what it has sent still goes to the program */
    unsigned short rows, columns; /* 0: it has no size */
    char *input;        /* a message of input that the program has not taken yet, from input_at to input_end */
    size_t input_at, input_end;
    char *backlog;      /* messages that its socket has no space for, each behind its size */
    size_t backlog_at, backlog_end, backlog_capacity;
};

struct part {
    uint32_t size;
    char stream;
};

static struct client clients[MAX_PLACES];
static int listen_fd = -1, terminal_fd = -1; /* terminal_fd: the master */
static int input_fd = -1;                    /* where input goes: the master, or the child's pipe; -1: closed */
static bool attachable, input_ends;
static int writer = -1; /* the place whose message of input was written in part, or was the last one to be written */
static int64_t accept_again_ms;
static char ring[RING_BYTES]; /* the last output, for replays */
static size_t ring_at, ring_size, part_at, part_count;
static struct part parts[RING_PARTS]; /* which stream it is of */
static bool ring_cut;                 /* output was forgotten */

static void forget(size_t count)
{
    ring_cut = ring_cut || count;
    ring_at = (ring_at + count) % RING_BYTES;
    ring_size -= count;
    while (count) {
        struct part *part = &parts[part_at];
        size_t size = count < part->size ? count : part->size;
        part->size -= size;
        count -= size;
        if (!part->size) {
            part_at = (part_at + 1) % RING_PARTS;
            part_count--;
        }
    }
}

/* Keeps output for replays: at most a chunk, which fits into the ring. */
static void remember(char stream, const char *bytes, size_t count)
{
    if (ring_size + count > RING_BYTES)
        forget(ring_size + count - RING_BYTES);
    struct part *newest = part_count ? &parts[(part_at + part_count - 1) % RING_PARTS] : NULL;
    if (!newest || newest->stream != stream) {
        if (part_count == RING_PARTS)
            forget(parts[part_at].size);
        newest = &parts[(part_at + part_count++) % RING_PARTS];
        *newest = (struct part){0, stream};
    }
    newest->size += count;
    size_t end = (ring_at + ring_size) % RING_BYTES, first = count < RING_BYTES - end ? count : RING_BYTES - end;
    memcpy(ring + end, bytes, first);
    memcpy(ring, bytes + first, count - first);
    ring_size += count;
}

/* Gives the terminal the smallest rows and columns of all clients, and keeps its size where none has any. The program
   gets SIGWINCH if the size changes, or else if it shall redraw. */
static void set_size(bool redraw)
{
    struct winsize now, size = {0};
    if (terminal_fd < 0 || ioctl(terminal_fd, TIOCGWINSZ, &now))
        return;
    for (int i = 0; i < MAX_PLACES; i++) {
        if (clients[i].fd < 0 || !clients[i].rows || !clients[i].columns)
            continue;
        if (!size.ws_row || clients[i].rows < size.ws_row)
            size.ws_row = clients[i].rows;
        if (!size.ws_col || clients[i].columns < size.ws_col)
            size.ws_col = clients[i].columns;
    }
    if (!size.ws_row)
        return;
    if (size.ws_row != now.ws_row || size.ws_col != now.ws_col) {
        ioctl(terminal_fd, TIOCSWINSZ, &size);
    } else if (redraw) {
        pid_t group = tcgetpgrp(terminal_fd);
        if (group > 1)
            kill(-group, SIGWINCH);
    }
}

static void close_client(struct client *client)
{
    bool sized = client->rows;
    close(client->fd);
    free(client->input);
    free(client->backlog);
    *client = (struct client){.fd = -1};
    if (sized)
        set_size(false);
}

/* Ends the connection of a client that has closed it or is too slow. */
static void leave(struct client *client)
{
    bool sized = client->rows;
    shutdown(client->fd, SHUT_RDWR);
    free(client->backlog);
    client->backlog = NULL;
    client->backlog_at = client->backlog_end = client->backlog_capacity = 0;
    client->gone = true;
    client->wants_output = false;
    client->rows = client->columns = 0;
    if (sized)
        set_size(false);
}

static bool is_busy(int error) { return error == EAGAIN || error == EINTR || error == ENOBUFS || error == ENOMEM; }

/* Sends a message, or keeps it until the socket has space for it; a client with too many of these is left. */
static void send_message(struct client *client, const char *head, size_t head_size, const char *bytes, size_t count)
{
    struct iovec vectors[2] = {{(void *)head, head_size}, {(void *)bytes, count}};
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = 2};
    uint32_t size = head_size + count;
    size_t kept = client->backlog_end - client->backlog_at, needed = kept + sizeof size + size;
    if (client->fd < 0 || client->gone)
        return;
    if (!kept) {
        if (sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return;
        if (!is_busy(errno)) {
            leave(client);
            return;
        }
    }
    if (client->backlog_capacity - client->backlog_end < needed - kept) {
        size_t capacity = needed * 2 < MAX_BACKLOG_BYTES ? needed * 2 : MAX_BACKLOG_BYTES;
        char *fresh = needed > MAX_BACKLOG_BYTES ? NULL : malloc(capacity);
        if (!fresh) {
            leave(client);
            return;
        }
        if (kept)
            memcpy(fresh, client->backlog + client->backlog_at, kept);
        free(client->backlog);
        client->backlog = fresh;
        client->backlog_at = 0;
        client->backlog_end = kept;
        client->backlog_capacity = capacity;
    }
    char *end = client->backlog + client->backlog_end;
    memcpy(end, &size, sizeof size);
    memcpy(end + sizeof size, head, head_size);
    if (count)
        memcpy(end + sizeof size + head_size, bytes, count);
    client->backlog_end += sizeof size + size;
}

static void flush_backlog(struct client *client)
{
    while (client->backlog_at < client->backlog_end) {
        uint32_t size;
        memcpy(&size, client->backlog + client->backlog_at, sizeof size);
        if (send(client->fd, client->backlog + client->backlog_at + sizeof size, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
            if (!is_busy(errno))
                leave(client);
            return;
        }
        client->backlog_at += sizeof size + size;
    }
    free(client->backlog);
    client->backlog = NULL;
    client->backlog_at = client->backlog_end = client->backlog_capacity = 0;
}

static void send_output(char stream, const char *bytes, size_t count)
{
    const char head[] = {'O', stream};
    for (size_t at = 0, size; at < count; at += size) {
        size = count - at < MESSAGE_BYTES ? count - at : MESSAGE_BYTES;
        for (int i = 0; i < MAX_PLACES; i++)
            if (clients[i].fd >= 0 && clients[i].wants_output)
                send_message(&clients[i], head, sizeof head, bytes + at, size);
    }
}

static void send_replay(struct client *client)
{
    size_t at = ring_at;
    for (size_t i = 0; i < part_count; i++) {
        const struct part *part = &parts[(part_at + i) % RING_PARTS];
        const char head[] = {'R', part->stream, ring_cut};
        for (size_t left = part->size, size; left; left -= size, at = (at + size) % RING_BYTES) {
            size = left < MESSAGE_BYTES ? left : MESSAGE_BYTES;
            size = size < RING_BYTES - at ? size : RING_BYTES - at;
            send_message(client, head, sizeof head, ring + at, size);
        }
    }
}

/* Takes no more messages of a client, which learns of it when it sends one. What it has sent already goes nowhere; a
   client whose socket stays full would wait for ever. */
static void refuse_input(struct client *client)
{
    char byte;
    shutdown(client->fd, SHUT_RD);
    while (recv(client->fd, &byte, 1, MSG_DONTWAIT) > 0)
        continue;
}

/* Takes no more input of any client. */
static void close_input(void)
{
    if (input_fd >= 0 && input_fd != terminal_fd)
        close(input_fd);
    input_fd = -1;
    for (int i = 0; i < MAX_PLACES; i++) {
        struct client *client = &clients[i];
        free(client->input);
        client->input = NULL;
        if (client->fd >= 0 && client->gone)
            close_client(client);
        else if (client->fd >= 0 && client->greeted)
            refuse_input(client);
    }
}

static int next_writer(void)
{
    if (writer >= 0 && clients[writer].input && clients[writer].input_at)
        return writer; /* no other message may come between the halves of one */
    for (int i = 1; i <= MAX_PLACES; i++) {
        int place = (writer + i) % MAX_PLACES;
        if (clients[place].input)
            return place;
    }
    return -1;
}

/* Gives the program what clients have sent, as far as it takes it now. */
static void write_input(void)
{
    for (int place; input_fd >= 0 && (place = next_writer()) >= 0;) {
        struct client *client = &clients[place];
        writer = place;
        ssize_t written = write(input_fd, client->input + client->input_at, client->input_end - client->input_at);
        if (written < 0 && is_busy(errno))
            return;
        if (written < 0) {
            close_input();
            return;
        }
        client->input_at += written;
        if (client->input_at == client->input_end) {
            free(client->input);
            client->input = NULL;
        }
    }
    if (input_ends && input_fd >= 0)
        close_input();
}

static void add_input(struct client *client, const char *bytes, size_t count)
{
    if (input_fd < 0 || !count)
        return;
    client->input = malloc(count);
    if (!client->input) {
        close_client(client); /* it learns from that that its input is lost */
        return;
    }
    memcpy(client->input, bytes, count);
    client->input_at = 0;
    client->input_end = count;
    write_input();
}

static void end_input(struct client *client)
{
    struct termios settings;
    if (terminal_fd < 0) {
        input_ends = true;
        write_input();
    } else if (!tcgetattr(terminal_fd, &settings) && settings.c_cc[VEOF] != _POSIX_VDISABLE) {
        char end = settings.c_cc[VEOF];
        add_input(client, &end, 1);
    }
}

static bool take_size(struct client *client, const unsigned char *bytes)
{
    bool first = !client->rows;
    client->rows = bytes[0] << 8 | bytes[1];
    client->columns = bytes[2] << 8 | bytes[3];
    if (!client->rows || !client->columns)
        client->rows = client->columns = 0;
    return first && client->rows;
}

static void greet(struct client *client, const unsigned char *hello)
{
    const char welcome[] = {'W', '1', terminal_fd >= 0};
    client->greeted = true;
    if (input_fd < 0) /* before the client may send any */
        refuse_input(client);
    send_message(client, welcome, sizeof welcome, NULL, 0);
    if (hello[2] & 2)
        send_replay(client);
    send_message(client, "L", 1, NULL, 0);
    client->wants_output = (hello[2] & 1) && !client->gone;
    if (!client->gone && take_size(client, hello + 3))
        set_size(true);
}

/* Reads one message of a client. */
static void read_client(struct client *client)
{
    static char message[1 + MESSAGE_BYTES + 1];
    const unsigned char *bytes = (const unsigned char *)message;
    ssize_t got = recv(client->fd, message, sizeof message, MSG_DONTWAIT);
    if (got < 0 && is_busy(errno))
        return;
    if (got < 0 && errno == ECONNRESET) { /* told once where it has closed before it read all; then come its messages */
        leave(client);
        return;
    }
    if (got <= 0 || got > 1 + MESSAGE_BYTES)
        close_client(client);
    else if (!client->greeted && message[0] == 'H' && got >= HELLO_BYTES && message[1] == '1' && !client->gone)
        greet(client, bytes);
    else if (client->greeted && message[0] == 'I')
        add_input(client, message + 1, got - 1);
    else if (client->greeted && message[0] == 'S' && got >= SIZE_BYTES) {
        if (!client->gone)
            set_size(take_size(client, bytes + 1));
    } else if (client->greeted && message[0] == 'E')
        end_input(client);
    else
        close_client(client);
}

/* A place for another client, or NULL. Those that have not greeted make room, and so does the input of one that is
   gone, but for these only where all places are taken. */
static struct client *free_place(void)
{
    struct client *free = NULL, *gone = NULL;
    int attached = 0;
    for (int i = 0; i < MAX_PLACES; i++) {
        attached += clients[i].fd >= 0 && !clients[i].gone;
        if (clients[i].fd < 0)
            free = &clients[i];
        else if (clients[i].gone)
            gone = &clients[i];
    }
    for (int i = 0; i < MAX_PLACES && attached >= MAX_CLIENTS; i++) {
        if (clients[i].fd < 0 || clients[i].gone || clients[i].greeted)
            continue;
        read_client(&clients[i]); /* its hello may be waiting */
        if (clients[i].greeted)
            continue;
        if (clients[i].fd >= 0)
            close_client(&clients[i]);
        return &clients[i];
    }
    if (attached >= MAX_CLIENTS)
        return NULL;
    if (!free && gone) {
        close_client(gone);
        return gone;
    }
    return free;
}

static void accept_clients(void)
{
    for (int i = 0; i < MAX_CLIENTS; i++) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
                accept_again_ms = clock_ms(CLOCK_MONOTONIC) + ACCEPT_PAUSE_MS; /* no descriptor is left */
            return;
        }
        struct client *client = free_place();
        if (client) {
            client->fd = fd;
            continue;
        }
        send(fd, "X", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        close(fd);
    }
}

/* Fills in what poll(2) waits for; returns for how long it may wait, given for how long it may at most. */
static int watch_clients(struct pollfd *fds, int timeout_ms)
{
    bool pending = false;
    int64_t pause = accept_again_ms ? accept_again_ms - clock_ms(CLOCK_MONOTONIC) : 0;
    for (int i = 0; i < MAX_PLACES; i++) {
        struct client *client = &clients[i];
        bool is_held = client->input || (client->greeted && (input_fd < 0 || input_ends));
        pending = pending || client->input;
        fds[2 + i] = (struct pollfd){client->fd, 0, 0};
        if (!is_held)
            fds[2 + i].events |= POLLIN;
        else if (client->gone)
            fds[2 + i].fd = -1; /* its hangup would be told again and again */
        if (client->backlog_at < client->backlog_end)
            fds[2 + i].events |= POLLOUT;
    }
    fds[0] = (struct pollfd){pause > 0 ? -1 : listen_fd, POLLIN, 0};
    fds[1] = (struct pollfd){input_fd, pending ? POLLOUT : 0, 0};
    if (pause <= 0)
        accept_again_ms = 0;
    return pause > 0 && (timeout_ms < 0 || pause < timeout_ms) ? (int)pause : timeout_ms;
}

static void serve_clients(const struct pollfd *fds)
{
    if (fds[1].revents & POLLOUT)
        write_input();
    else if (fds[1].revents && input_fd >= 0)
        close_input(); /* the program has closed its standard input, or its terminal was hung up */
    for (int i = 0; i < MAX_PLACES; i++) {
        struct client *client = &clients[i];
        if (client->fd < 0 || client->fd != fds[2 + i].fd)
            continue;
        if (fds[2 + i].revents & POLLOUT)
            flush_backlog(client);
        if ((fds[2 + i].revents & (POLLHUP | POLLERR)) && !client->gone)
            leave(client);
        else if ((fds[2 + i].revents & POLLIN) && (!client->greeted || (input_fd >= 0 && !client->input)))
            read_client(client);
        if (client->fd >= 0 && client->gone && input_fd < 0)
            close_client(client); /* what it has sent goes nowhere */
    }
    if (fds[0].revents)
        accept_clients();
}

/* Opens the socket in the run's folder, whose path may be too long for an address. Returns an errno. */
static int listen_for_clients(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    for (int i = 0; i < MAX_PLACES; i++)
        clients[i].fd = -1;
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/attach", run_fd);
    listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listen_fd < 0)
        return errno;
    umask(0177);
    int error = bind(listen_fd, (struct sockaddr *)&address, sizeof address) || listen(listen_fd, LISTEN_BACKLOG) ? errno : 0;
    umask(077);
    attachable = !error;
    return error;
}

/* Gives the clients the rest of their messages, for a limited time, and closes their connections. */
static void end_clients(void)
{
    int64_t left, until = clock_ms(CLOCK_MONOTONIC) + DRAIN_MS;
    struct pollfd fds[MAX_PLACES];
    if (!attachable)
        return;
    unlinkat(run_fd, "attach", 0);
    close(listen_fd);
    for (int i = 0; i < MAX_PLACES; i++)
        if (clients[i].fd >= 0 && clients[i].greeted)
            send_message(&clients[i], "E", 1, NULL, 0);
    while ((left = until - clock_ms(CLOCK_MONOTONIC)) > 0) {
        bool waits = false;
        for (int i = 0; i < MAX_PLACES; i++) {
            bool has_backlog = clients[i].fd >= 0 && clients[i].backlog_at < clients[i].backlog_end;
            fds[i] = (struct pollfd){has_backlog ? clients[i].fd : -1, POLLOUT, 0};
            waits = waits || has_backlog;
        }
        if (!waits)
            break;
        poll(fds, MAX_PLACES, (int)left);
        for (int i = 0; i < MAX_PLACES; i++)
            if (fds[i].fd >= 0 && fds[i].revents)
                flush_backlog(&clients[i]);
    }
    for (int i = 0; i < MAX_PLACES; i++)
        if (clients[i].fd >= 0)
            close_client(&clients[i]);
}

/* ---- the main loop ---- */

static struct pollfd poll_fds[6 + MAX_PLACES]; /* standard output and error, signals, control; listener, input, clients */

/* Reads at most a chunk of output; false when none is available now. */
static bool pump(int which)
{
    ssize_t got = read(poll_fds[which].fd, chunk, sizeof chunk), more = got;
    if (got > 0) {
        /* A terminal gives a page at most. */
        while (terminal_fd >= 0 && more > 0 && got < CHUNK_BYTES)
            if ((more = read(terminal_fd, chunk + got, sizeof chunk - got)) > 0)
                got += more;
        append(which + 1, chunk, got);
        if (attachable) {
            remember(which + 1, chunk, got);
            send_output(which + 1, chunk, got);
        }
        return true;
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        if (poll_fds[which].fd != terminal_fd) /* which was hung up, and still has a size */
            close(poll_fds[which].fd);
        poll_fds[which].fd = -1;
    }
    return false;
}

/* Runs until the child and everything that it left behind have ended. */
static void supervise(void)
{
    for (;;) {
        bool exited_before = child_exited, others = reap();
        if (child_exited && !others)
            return;
        if (child_exited && !exited_before) {
            if (stage == RUNNING)
                stop(spec.stop_signal, spec.grace_ms);
            else if (stage == STOPPING)
                signal_escaped(stop_signal);
        }
        int timeout_ms = advance_stop();
        if (attachable)
            timeout_ms = watch_clients(poll_fds + 4, timeout_ms);
        if (poll(poll_fds, attachable ? 6 + MAX_PLACES : 4, timeout_ms) < 0)
            continue;
        for (int i = 0; i < 2; i++)
            if (poll_fds[i].fd >= 0 && poll_fds[i].revents)
                pump(i);
        if (poll_fds[2].revents) {
            struct signalfd_siginfo info;
            while (read(poll_fds[2].fd, &info, sizeof info) > 0)
                continue;
        }
        if (poll_fds[3].revents)
            read_commands(poll_fds[3].fd);
        if (attachable)
            serve_clients(poll_fds + 4);
    }
}

/* Reads the rest of the output. Everything that the child wrote is in the pipes by now. A process outside of the tree
   that was passed one of the pipes is not waited for. */
static void drain(void)
{
    int64_t until = clock_ms(CLOCK_MONOTONIC) + DRAIN_MS;
    for (int i = 0; i < 2; i++)
        while (poll_fds[i].fd >= 0 && pump(i) && clock_ms(CLOCK_MONOTONIC) < until)
            continue;
    if ((lost[1] || lost[2]) && (index_fd >= 0 || next_segment()) && write_marks(clock_ms(CLOCK_REALTIME))) {
        /* the log ends with the loss marks */
    }
}

/* ---- starting the child ---- */

/* Opens a pseudo-terminal of 80 columns and 24 rows: terminal_fd, and the slave. Neither becomes the shim's own. Returns
   an errno. */
static int open_terminal(int *slave)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    struct termios settings;
    terminal_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal_fd < 0 || unlockpt(terminal_fd))
        return errno;
    *slave = -1;
#ifdef TIOCGPTPEER
    *slave = ioctl(terminal_fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC); /* also where /dev/pts is not mounted */
#endif
    if (*slave < 0) {
        char name[64];
        int error = ptsname_r(terminal_fd, name, sizeof name);
        if (error)
            return error;
        *slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    }
    if (*slave < 0 || ioctl(terminal_fd, TIOCSWINSZ, &size) || tcgetattr(*slave, &settings))
        return errno;
    settings.c_iflag |= IUTF8; /* erasing a character erases all of its bytes */
    return tcsetattr(*slave, TCSANOW, &settings) ? errno : 0;
}

/* Opens the child's standard input, output and error (child_fds), and the shim's ends of these (own_fds, of the first
   input and output). Returns an errno. */
static int open_standard(int given_fd, int child_fds[3], int own_fds[3])
{
    int pipes[3][2] = {{given_fd < 0 ? 0 : given_fd, -1}, {-1, -1}, {-1, -1}};
    if (spec.input == INPUT_TERMINAL) {
        int error = open_terminal(&child_fds[0]);
        child_fds[1] = child_fds[2] = child_fds[0];
        own_fds[0] = own_fds[1] = terminal_fd;
        own_fds[2] = -1;
        return error;
    }
    for (int i = spec.input == INPUT_OPEN ? 0 : 1; i < 3; i++)
        if (pipe2(pipes[i], O_CLOEXEC))
            return errno;
    for (int i = 0; i < 3; i++) {
        child_fds[i] = pipes[i][i > 0];
        own_fds[i] = pipes[i][i == 0];
    }
    return 0;
}

/* Forks the child and lets it execute the program; given_fd (INPUT_FD) may be -1. Returns an errno if the shim itself
   failed; if the child could not execute the program, reports that and exits. */
static int start_child(int spec_fd, int report_fd, int given_fd)
{
    int child_fds[3], own_fds[3], go[2], failed[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct failure failure;
    struct stat file;
    pid_t shim = getpid();
    if (fstat(spec_fd, &file) || file.st_size == 0)
        return EINVAL;
    char *text = mmap(NULL, file.st_size, PROT_READ, MAP_PRIVATE, spec_fd, 0);
    if (text == MAP_FAILED || !parse_spec(text, text + file.st_size, &spec))
        return EINVAL;
    if (null < 0 || pipe2(go, O_CLOEXEC) || pipe2(failed, O_CLOEXEC))
        return errno;
    int error = open_standard(given_fd, child_fds, own_fds);
    if (!error && spec.input != INPUT_GIVEN)
        error = listen_for_clients();
    if (error)
        return error;
    open_log(spec.log_bytes);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
    int64_t started_ms = clock_ms(CLOCK_REALTIME);
    child = fork();
    if (child < 0)
        return errno;
    if (child == 0) {
        close(go[1]); /* otherwise the read of the go-ahead would not return when the shim ends */
        exec_child(&spec, shim, child_fds, go[0], failed[1]);
    }
    /* Recorded before the child executes the program, so that no program ever runs unrecorded. */
    write_run(started_ms, spec.input, child_fds);
    /* The slave stays open: otherwise the terminal would end while no process has it open; one may open it again. */
    for (int i = 0; i < 3 && spec.input != INPUT_TERMINAL; i++)
        if (child_fds[i] > 2)
            close(child_fds[i]);
    close(failed[1]);
    close(go[0]);
    if (write(go[1], "", 1) != 1)
        return errno;
    close(go[1]);
    if (read(failed[0], &failure, sizeof failure) == sizeof failure) {
        waitpid(child, NULL, 0);
        report_failure(report_fd, failure.step, failure.error);
        exit(1);
    }
    close(failed[0]);
    munmap(text, file.st_size);
    for (int i = 0; i < 3; i++)
        if (own_fds[i] >= 0)
            fcntl(own_fds[i], F_SETFL, O_NONBLOCK);
    input_fd = own_fds[0];
    poll_fds[0] = (struct pollfd){own_fds[1], POLLIN, 0};
    poll_fds[1] = (struct pollfd){own_fds[2], POLLIN, 0};
    return 0;
}

static void become_supervisor(const int *keep, size_t count)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL); /* only SIGKILL and SIGSTOP reach the shim */
    signal(SIGCHLD, SIG_DFL); /* if it were ignored, the kernel would reap the children */
    umask(077);
    close_others(keep, count);
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (chdir("/")) {
        /* the daemon's directory stays in use */
    }
}

static int open_signals(void)
{
    sigset_t child_signal;
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    return signalfd(-1, &child_signal, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Reaps the child, and what may be left after the last look. */
static void reap_all(void)
{
    waitpid(child, NULL, 0);
    while (waitpid(-1, NULL, WNOHANG) >= 0) {
        kill_round(); /* no process should be left by now; this makes sure */
        poll(NULL, 0, 1);
    }
}

/* ---- short-lived children ---- */

/* Forks the child, which gets the descriptors from keep[2] on; afterwards only the child has them, so that their other
   ends see when they are closed. Returns an errno. */
static int start_command(const int *keep, size_t count)
{
    int failed[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct stat file;
    pid_t shim = getpid();
    if (fstat(keep[0], &file) || file.st_size == 0)
        return EINVAL;
    char *text = mmap(NULL, file.st_size, PROT_READ, MAP_PRIVATE, keep[0], 0);
    if (text == MAP_FAILED || !parse_spec(text, text + file.st_size, &spec))
        return EINVAL;
    if (null < 0 || pipe2(failed, O_CLOEXEC))
        return errno;
    for (size_t i = 2; i < count; i++)
        fcntl(keep[i], F_SETFD, 0);
    child = fork();
    if (child < 0)
        return errno;
    if (child == 0)
        exec_child(&spec, shim, (int[]){0, 1, 2}, -1, failed[1]);
    close(failed[1]);
    close(keep[0]);
    for (size_t i = 2; i < count; i++)
        close(keep[i]);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
    failed_fd = failed[0];
    fcntl(failed_fd, F_SETFL, O_NONBLOCK);
    return 0;
}

/* Reads a command of the daemon; false when it has closed the socket or has ended. */
static bool read_control(void)
{
    char text[LINE_BYTES];
    int number;
    ssize_t got = read(control_fd, text, sizeof text - 1);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    text[got] = 0;
    if (sscanf(text, "signal %d", &number) == 1) {
        if (kill(-child, number))
            kill(child, number); /* it has no group yet */
        kill(-child, SIGCONT);
    }
    return true;
}

static int run_command(int argc, char **argv)
{
    int keep[MAX_COMMAND_FDS], error;
    size_t count = argc - 3;
    if (count < 2 || count > MAX_COMMAND_FDS)
        return 2;
    for (size_t i = 0; i < count; i++)
        keep[i] = atoi(argv[3 + i]);
    become_supervisor(keep, count);
    control_fd = keep[1];
    int signals = open_signals();
    error = signals < 0 ? errno : start_command(keep, count);
    if (error) {
        report_failure(control_fd, "shim", error);
        return 2;
    }
    poll_fds[1] = (struct pollfd){control_fd, POLLIN, 0};
    poll_fds[2] = (struct pollfd){signals, POLLIN, 0};
    for (;;) {
        struct signalfd_siginfo info;
        report_start();
        bool others = reap();
        if (child_exited && !others)
            break;
        if (child_exited && stage == RUNNING)
            stage = STOPPING; /* without a grace time: the next step kills */
        poll_fds[0] = (struct pollfd){failed_fd, POLLIN, 0};
        if (poll(poll_fds, 3, advance_stop()) < 0)
            continue;
        while (poll_fds[2].revents && read(signals, &info, sizeof info) > 0)
            continue;
        if (poll_fds[1].revents && !read_control()) {
            poll_fds[1].fd = -1;
            if (stage == RUNNING)
                stage = STOPPING;
        }
    }
    reap_all();
    return 0;
}

/* ---- main ---- */

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "--command"))
        return run_command(argc, argv);
    if (argc != 7 && argc != 8)
        return 2;
    int keep[6] = {[5] = -1}, given = argc - 2;
    for (int i = 0; i < given; i++)
        keep[i] = atoi(argv[2 + i]);
    int report_fd = keep[1], error;
    run_fd = keep[2];
    log_fd = keep[3];
    become_supervisor(keep, given);
    status_fd = openat(run_fd, "status", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    int signals = open_signals();
    int control = openat(run_fd, "control", O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (status_fd < 0 || signals < 0 || control < 0)
        error = errno;
    else
        error = start_child(keep[0], report_fd, keep[5]);
    if (error) {
        report_failure(report_fd, "shim", error);
        return 2;
    }
    poll_fds[2] = (struct pollfd){signals, POLLIN, 0};
    poll_fds[3] = (struct pollfd){control, POLLIN, 0};
    if (write(report_fd, "ok\n", 3) < 0) {
        /* the daemon has ended; the next one adopts the child */
    }
    close(report_fd);
    supervise();
    drain();
    end_clients();
    reap_all();
    char text[LINE_BYTES];
    snprintf(text, sizeof text, "done %lld", (long long)clock_ms(CLOCK_REALTIME));
    write_status(DONE_AT, LINE_BYTES, text);
    return 0;
}
