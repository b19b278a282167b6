/* What would be left of a folder if the power went now, with all that was not synced dropped.

   LD_PRELOAD. Whenever a file of DURABLE_OF has been synced, its content is put into DURABLE_COPY
   under the same name, before the sync returns to its caller; when the folder itself has been synced,
   files that were deleted from it are deleted from the copy. Each change of the copy happens under a
   lock on DURABLE_COPY/.lock, so that who holds that lock sees the copy of one instant. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void copy(int from, int to)
{
    static __thread char block[1 << 16];
    off_t at = 0;
    ssize_t length;
    /* pread on the caller's descriptor: to open and close the file again would drop the process's
       fcntl locks on it, and with them SQLite's. */
    while ((length = pread(from, block, sizeof block, at)) > 0) {
        if (write(to, block, length) != length)
            abort();
        at += length;
    }
}

static int locked(const char *kept)
{
    char name[4200];
    snprintf(name, sizeof name, "%s/.lock", kept);
    int lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0 || flock(lock, LOCK_EX) != 0)
        abort();
    return lock;
}

static void keep_file(int file, const char *kept, const char *name)
{
    char fresh[4200], place[4200];
    snprintf(fresh, sizeof fresh, "%s/.fresh", kept);
    snprintf(place, sizeof place, "%s%s", kept, name);
    int to = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0)
        abort();
    copy(file, to);
    close(to);
    if (rename(fresh, place) != 0)
        abort();
}

static void keep_deletions(const char *folder, const char *kept)
{
    char there[4400], place[4400];
    DIR *listed = opendir(kept);
    struct dirent *entry;
    while (listed && (entry = readdir(listed))) {
        snprintf(there, sizeof there, "%s/%s", folder, entry->d_name);
        snprintf(place, sizeof place, "%s/%s", kept, entry->d_name);
        if (entry->d_name[0] != '.' && access(there, F_OK) != 0)
            unlink(place);
    }
    if (listed)
        closedir(listed);
}

static void keep(int file)
{
    const char *folder = getenv("DURABLE_OF"), *kept = getenv("DURABLE_COPY");
    char link[64], path[4096];
    struct stat status;
    if (!folder || !kept || fstat(file, &status) != 0)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1), stem = strlen(folder);
    if (length < stem)
        return;
    path[length] = 0;
    if (strncmp(path, folder, stem) != 0 || (path[stem] != '/' && path[stem] != 0))
        return;
    int lock = locked(kept);
    if (S_ISREG(status.st_mode))
        keep_file(file, kept, path + stem);
    else if (S_ISDIR(status.st_mode))
        keep_deletions(folder, kept);
    close(lock);
}

static int synced(const char *name, int file)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real(file);
    if (result == 0)
        keep(file);
    return result;
}

int fsync(int file) { return synced("fsync", file); }
int fdatasync(int file) { return synced("fdatasync", file); }
