/* Logs every call that changes a file or a folder below $LOG_BELOW into $LOG_FILE, in order; for LD_PRELOAD.
 *
 * A record: one letter, three 64-bit numbers (length of the first path, of the second, of the data), a 64-bit offset,
 * then paths and data. Letters: C created, W written, T cut, S synced, R renamed, L linked, X two names swapped,
 * U unlinked, M mkdir, D rmdir.
 *
 * A call and its record are made under one lock, so that the log has the order of the calls whichever threads make
 * them. A log that would not be whole ends the process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int log_fd = -1;
static char below[PATH_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Makes `call`, whose value is `result`; if it is `watched`, does `when_done` before any other watched call. */
#define LOGGED(watched, call, when_done) \
    ({ \
        int logs = log_fd >= 0 && (watched); \
        if (logs) pthread_mutex_lock(&lock); \
        __typeof__(call) result = call; \
        if (logs && result >= 0) { when_done; } \
        if (logs) pthread_mutex_unlock(&lock); \
        result; \
    })

/* Runs before there are threads. */
__attribute__((constructor)) static void open_log(void) {
    const char *file = getenv("LOG_FILE"), *folder = getenv("LOG_BELOW");
    if (!file || !folder) return;
    strncpy(below, folder, sizeof below - 1);
    log_fd = REAL(open)(file, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
    if (log_fd < 0) abort();
}

static int is_below(const char *path) { return !strncmp(path, below, strlen(below)); }

/* By one call, so that records of several processes do not mix. */
static void record(char letter, const char *path, const char *other, int64_t offset, const void *data, size_t count) {
    uint64_t head[4] = {strlen(path), other ? strlen(other) : 0, count, (uint64_t)offset};
    struct iovec parts[] = {
        {&letter, 1}, {head, sizeof head}, {(void *)path, head[0]}, {(void *)other, head[1]}, {(void *)data, count},
    };
    if (writev(log_fd, parts, 5) != (ssize_t)(1 + sizeof head + head[0] + head[1] + count)) abort();
}

static int path_of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return is_below(path);
}

static int path_at(int folder, const char *name, char *path) {
    if (name[0] == '/') strncpy(path, name, PATH_MAX - 1);
    else if (folder == AT_FDCWD) {
        if (!getcwd(path, PATH_MAX)) return 0;
        strcat(strcat(path, "/"), name);
    } else {
        path[0] = 0, path_of_fd(folder, path);
        strcat(strcat(path, "/"), name);
    }
    return is_below(path);
}

static void written(const char *path, int64_t offset, const void *data, size_t count) {
    if (count) record('W', path, 0, offset, data, count);
}

/* What the kernel copied is read back. */
static void copied(const char *path, int64_t offset, size_t count) {
    char *data = malloc(count);
    int again = REAL(open)(path, O_RDONLY);
    if (!data || pread(again, data, count, offset) != (ssize_t)count) abort();
    written(path, offset, data, count);
    REAL(close)(again), free(data);
}

static int64_t place(int fd) { return lseek(fd, 0, SEEK_CUR); }

ssize_t pwrite(int fd, const void *data, size_t count, off_t offset) {
    char path[PATH_MAX];
    return LOGGED(path_of_fd(fd, path), REAL(pwrite)(fd, data, count, offset), written(path, offset, data, result));
}
ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset) { return pwrite(fd, data, count, offset); }

ssize_t write(int fd, const void *data, size_t count) {
    char path[PATH_MAX];
    return LOGGED(path_of_fd(fd, path), REAL(write)(fd, data, count), written(path, place(fd) - result, data, result));
}

ssize_t sendfile(int out, int in, off_t *offset, size_t count) {
    char path[PATH_MAX];
    return LOGGED(path_of_fd(out, path), REAL(sendfile)(out, in, offset, count),
                  copied(path, place(out) - result, result));
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) { return sendfile(out, in, offset, count); }

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t count, unsigned flags) {
    char path[PATH_MAX];
    return LOGGED(path_of_fd(out, path), REAL(copy_file_range)(in, in_at, out, out_at, count, flags),
                  copied(path, (out_at ? *out_at : place(out)) - result, result));
}

int ftruncate(int fd, off_t size) {
    char path[PATH_MAX];
    return LOGGED(path_of_fd(fd, path), REAL(ftruncate)(fd, size), record('T', path, 0, size, 0, 0));
}
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int truncate(const char *name, off_t size) {
    char path[PATH_MAX];
    return LOGGED(path_at(AT_FDCWD, name, path), REAL(truncate)(name, size), record('T', path, 0, size, 0, 0));
}
int truncate64(const char *name, off64_t size) { return truncate(name, size); }

int fsync(int fd) {
    char path[PATH_MAX];
    return LOGGED(path_of_fd(fd, path), REAL(fsync)(fd), record('S', path, 0, 0, 0, 0));
}
int fdatasync(int fd) { return fsync(fd); }

/* Whether it makes the file is asked under the lock, too. */
static int open_and_tell(int folder, const char *name, int flags, mode_t mode, int *existed) {
    struct stat status;
    *existed = !fstatat(folder, name, &status, 0);
    return REAL(openat)(folder, name, flags, mode);
}

static int opened_at(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    int existed, changes = flags & (O_CREAT | O_TRUNC);
    if (!changes) return REAL(openat)(folder, name, flags, mode);
    return LOGGED(path_at(folder, name, path), open_and_tell(folder, name, flags, mode, &existed),
                  if (!existed) record('C', path, 0, 0, 0, 0); else if (flags & O_TRUNC) record('T', path, 0, 0, 0, 0));
}
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *name, int flags, ...) { MODE(flags) return opened_at(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened_at(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return opened_at(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) {
    MODE(flags) return opened_at(folder, name, flags | O_LARGEFILE, mode);
}

#define TWO(letter, from_folder, to_folder, call) \
    char one[PATH_MAX], other[PATH_MAX]; \
    return LOGGED(path_at(from_folder, from, one) && path_at(to_folder, to, other), call, \
                  record(letter, one, other, 0, 0, 0));
int rename(const char *from, const char *to) { TWO('R', AT_FDCWD, AT_FDCWD, REAL(rename)(from, to)) }
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    TWO('R', from_folder, to_folder, REAL(renameat)(from_folder, from, to_folder, to))
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    TWO(flags & 2 ? 'X' : 'R', from_folder, to_folder, REAL(renameat2)(from_folder, from, to_folder, to, flags))
}
int link(const char *from, const char *to) { TWO('L', AT_FDCWD, AT_FDCWD, REAL(link)(from, to)) }
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    TWO('L', from_folder, to_folder, REAL(linkat)(from_folder, from, to_folder, to, flags))
}

#define ONE(letter, folder, call) \
    char path[PATH_MAX]; \
    return LOGGED(path_at(folder, name, path), call, record(letter, path, 0, 0, 0, 0));
int unlink(const char *name) { ONE('U', AT_FDCWD, REAL(unlink)(name)) }
int unlinkat(int folder, const char *name, int flags) {
    ONE(flags & AT_REMOVEDIR ? 'D' : 'U', folder, REAL(unlinkat)(folder, name, flags))
}
int mkdir(const char *name, mode_t mode) { ONE('M', AT_FDCWD, REAL(mkdir)(name, mode)) }
int mkdirat(int folder, const char *name, mode_t mode) { ONE('M', folder, REAL(mkdirat)(folder, name, mode)) }
int rmdir(const char *name) { ONE('D', AT_FDCWD, REAL(rmdir)(name)) }
