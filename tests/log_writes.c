/* Logs every call that changes a file or a folder below $LOG_BELOW into $LOG_FILE, in order; for LD_PRELOAD.
 *
 * A record: one letter, three 64-bit numbers (length of the first path, of the second, of the data), a 64-bit offset,
 * then paths and data. Letters: C created, W written, T cut, S synced, R renamed, L linked, X two names swapped,
 * U unlinked, M mkdir, D rmdir.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

static int log_fd = -2;
static char below[PATH_MAX];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int logging(void) {
    if (log_fd == -2) {
        const char *file = getenv("LOG_FILE"), *folder = getenv("LOG_BELOW");
        log_fd = -1;
        if (file && folder) {
            strncpy(below, folder, sizeof below - 1);
            log_fd = REAL(open)(file, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
        }
    }
    return log_fd >= 0;
}

static int is_below(const char *path) { return !strncmp(path, below, strlen(below)); }

static void put(const void *data, size_t count) {
    const char *at = data;
    while (count) {
        ssize_t n = REAL(write)(log_fd, at, count);
        if (n <= 0) return;
        at += n, count -= n;
    }
}

static void record(char letter, const char *path, const char *other, int64_t offset, const void *data, size_t count) {
    uint64_t head[4] = {strlen(path), other ? strlen(other) : 0, count, (uint64_t)offset};
    put(&letter, 1), put(head, sizeof head), put(path, head[0]);
    if (other) put(other, head[1]);
    if (count) put(data, count);
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

static void written(int fd, int64_t offset, const void *data, ssize_t count) {
    char path[PATH_MAX];
    if (count > 0 && logging() && fd != log_fd && path_of_fd(fd, path)) record('W', path, 0, offset, data, count);
}

static void copied(int fd, int64_t offset, ssize_t count) {
    char path[PATH_MAX];
    if (count <= 0 || !logging() || !path_of_fd(fd, path)) return;
    char *data = malloc(count);
    int again = REAL(open)(path, O_RDONLY);
    ssize_t n = pread(again, data, count, offset);
    if (n > 0) record('W', path, 0, offset, data, n);
    REAL(close)(again), free(data);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t offset) {
    ssize_t n = REAL(pwrite)(fd, data, count, offset);
    written(fd, offset, data, n);
    return n;
}
ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset) { return pwrite(fd, data, count, offset); }

ssize_t write(int fd, const void *data, size_t count) {
    ssize_t n = REAL(write)(fd, data, count);
    if (n > 0 && logging() && fd != log_fd) {
        off_t now = lseek(fd, 0, SEEK_CUR);
        if (now >= n) written(fd, now - n, data, n);
    }
    return n;
}

ssize_t sendfile(int out, int in, off_t *offset, size_t count) {
    off_t before = lseek(out, 0, SEEK_CUR);
    ssize_t n = REAL(sendfile)(out, in, offset, count);
    copied(out, before, n);
    return n;
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) { return sendfile(out, in, offset, count); }

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t count, unsigned flags) {
    off_t before = out_at ? *out_at : lseek(out, 0, SEEK_CUR);
    ssize_t n = REAL(copy_file_range)(in, in_at, out, out_at, count, flags);
    copied(out, before, n);
    return n;
}

int ftruncate(int fd, off_t size) {
    char path[PATH_MAX];
    int result = REAL(ftruncate)(fd, size);
    if (!result && logging() && path_of_fd(fd, path)) record('T', path, 0, size, 0, 0);
    return result;
}
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int truncate(const char *name, off_t size) {
    char path[PATH_MAX];
    int result = REAL(truncate)(name, size);
    if (!result && logging() && path_at(AT_FDCWD, name, path)) record('T', path, 0, size, 0, 0);
    return result;
}
int truncate64(const char *name, off64_t size) { return truncate(name, size); }

int fsync(int fd) {
    char path[PATH_MAX];
    int result = REAL(fsync)(fd);
    if (logging() && path_of_fd(fd, path)) record('S', path, 0, 0, 0, 0);
    return result;
}
int fdatasync(int fd) { return fsync(fd); }

static int opened_at(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    struct stat status;
    int watched = (flags & (O_CREAT | O_TRUNC)) && logging() && path_at(folder, name, path);
    int existed = watched && !fstatat(folder, name, &status, 0);
    int fd = REAL(openat)(folder, name, flags, mode);
    if (fd >= 0 && watched && !existed) record('C', path, 0, 0, 0, 0);
    else if (fd >= 0 && watched && (flags & O_TRUNC)) record('T', path, 0, 0, 0, 0);
    return fd;
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

static int two(char letter, int result, const char *from, const char *to) {
    char one[PATH_MAX], other[PATH_MAX];
    if (!result && logging() && path_at(AT_FDCWD, from, one) && path_at(AT_FDCWD, to, other))
        record(letter, one, other, 0, 0, 0);
    return result;
}
int rename(const char *from, const char *to) { return two('R', REAL(rename)(from, to), from, to); }
int link(const char *from, const char *to) { return two('L', REAL(link)(from, to), from, to); }

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    int result = REAL(renameat2)(from_folder, from, to_folder, to, flags);
    return two(flags & 2 ? 'X' : 'R', result, from, to);
}

static int one(char letter, int result, int folder, const char *name) {
    char path[PATH_MAX];
    if (!result && logging() && path_at(folder, name, path)) record(letter, path, 0, 0, 0, 0);
    return result;
}
int unlink(const char *name) { return one('U', REAL(unlink)(name), AT_FDCWD, name); }
int unlinkat(int folder, const char *name, int flags) {
    return one(flags & AT_REMOVEDIR ? 'D' : 'U', REAL(unlinkat)(folder, name, flags), folder, name);
}
int mkdir(const char *name, mode_t mode) { return one('M', REAL(mkdir)(name, mode), AT_FDCWD, name); }
int rmdir(const char *name) { return one('D', REAL(rmdir)(name), AT_FDCWD, name); }
