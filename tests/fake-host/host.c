/* A pretend host for faults that no test may order: a file system that fails in the middle of a run, a wall clock that
 * steps, a suspend. Preloaded into soakd, it stands between it and the C library.
 *
 * It reads its orders from the file named by FAKE_HOST at every call, one a line:
 *   disk ERRNO       writes to files whose name has ".db" in it fail with ERRNO (30: read-only, 28: full, 5: input/output)
 *   wall SECONDS     the wall clock is off by this much
 *   slept SECONDS    the host has been suspended for this long: wall clock and boot time have gone on, monotonic time has not
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* The figure of an order, 0 without. Plain system calls, so that nothing here meets itself. */
static long order(const char *name) {
    const char *path = getenv("FAKE_HOST");
    char text[256];
    int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (file < 0) return 0;
    long length = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    if (length <= 0) return 0;
    text[length] = 0;
    const char *found = strstr(text, name);
    return found ? atol(found + strlen(name)) : 0;
}

/* Whether a write to this file is to fail; sets errno. */
static int fails(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (!strstr(path, ".db")) return 0;
    long code = order("disk ");
    if (code) errno = (int)code;
    return code != 0;
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    return fails(file) ? -1 : syscall(SYS_pwrite64, file, bytes, count, at);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) { return pwrite64(file, bytes, count, at); }

ssize_t write(int file, const void *bytes, size_t count) { return fails(file) ? -1 : syscall(SYS_write, file, bytes, count); }

int ftruncate64(int file, off64_t length) { return fails(file) ? -1 : (int)syscall(SYS_ftruncate, file, length); }

int posix_fallocate(int file, off_t at, off_t length) {
    if (fails(file)) return errno;
    return syscall(SYS_fallocate, file, 0, at, length) == 0 ? 0 : errno;
}

int fsync(int file) { return fails(file) ? -1 : (int)syscall(SYS_fsync, file); }

int fdatasync(int file) { return fails(file) ? -1 : (int)syscall(SYS_fdatasync, file); }

int clock_gettime(clockid_t clock, struct timespec *out) {
    int done = (int)syscall(SYS_clock_gettime, clock, out);
    if (done == 0 && clock == CLOCK_REALTIME) out->tv_sec += order("wall ") + order("slept ");
    if (done == 0 && clock == CLOCK_BOOTTIME) out->tv_sec += order("slept ");
    return done;
}
