/* SPDX-License-Identifier: Apache-2.0
 *
 * The init of the guests: it loads the modules of the initramfs, and then is an enclave's init, which
 * does on AF_VSOCK what a real one does, and no more: socket, connect, write one byte, read one byte,
 * close. No time limit, no retry, no half-close. What happens is told on the console, a line each;
 * then the guest is reset, which ends a QEMU that was told -no-reboot.
 *
 * Arguments of the kernel's command line that it does not know itself are its init's environment:
 *
 *     hb_cid=3        connect to this CID
 *     hb_port=9000    and this port
 *     hb_byte=0xb7    send this byte
 *     hb_delay=300    milliseconds from the start of the driver to the first connection: before,
 *                     vhost-device-vsock 0.3.0 can lose a packet, for good
 *     hb_late=0       milliseconds from each connection to its byte
 *     hb_manner=boot  what to do, see the table of manners
 *     hb_hold=0       open so many connections before, and hold them in silence
 *     hb_count=1      how often
 *     hb_seed=1       of the dice of hb_manner=dice
 *     hb_run=PATH     be no enclave, but mount what a system needs, and become this program
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define MODULES "/modules"
#define LAST_WORDS 1000 /* milliseconds that a guest lives on, so that what it closed is closed */

enum outcome { ECHOED, OTHER_BYTE, END, REFUSED, OUTCOMES };
static const char *const names[] = {"echoed", "other-byte", "end", "refused"};

static void pause_for(long milliseconds)
{
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

static long number(const char *name, long otherwise)
{
    const char *text = getenv(name);

    return text ? strtol(text, NULL, 0) : otherwise;
}

static void end(void)
{
    fflush(stdout);
    pause_for(LAST_WORDS);
    reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}

static void die(const char *what)
{
    printf("init: failed: %s: %s\n", what, strerror(errno));
    end();
}

static int is_module(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void mount_on(const char *type, const char *place)
{
    mkdir(place, 0755);
    if (mount(type, place, type, 0, "") < 0 && errno != EBUSY)
        die(place);
}

/* What the kernel's command line has for a module: "a=1 b=2", where it says "name.a=1 name.b=2". */
static void options_of(const char *name, char *options, size_t size)
{
    static char line[4096];
    FILE *file = fopen("/proc/cmdline", "re");
    size_t length = strlen(name), used = 0;

    if (!file || !fgets(line, sizeof line, file))
        die("/proc/cmdline");
    fclose(file);
    for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
        if (strncmp(word, name, length) == 0 && word[length] == '.' && used < size)
            used += (size_t)snprintf(options + used, size - used, "%s ", word + length + 1);
}

/* The module of 10-name.ko, with its options. */
static void load(const char *file)
{
    char path[512], name[64] = "", options[2048] = "";
    int fd;

    if (sscanf(file, "%*d-%63[^.]", name) != 1)
        die(file);
    options_of(name, options, sizeof options);
    snprintf(path, sizeof path, MODULES "/%s", file);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_finit_module, fd, options, 0) < 0)
        die(path);
    close(fd);
}

/* Their names begin with the numbers of the order in which they are to be loaded. */
static void load_modules(void)
{
    struct dirent **modules;
    int count = scandir(MODULES, &modules, is_module, alphasort);

    if (count < 0)
        die(MODULES);
    for (int i = 0; i < count; i++)
        load(modules[i]->d_name);
}

static int connected(void)
{
    const struct timeval patience = {.tv_sec = 10};
    struct sockaddr_vm parent = {.svm_family = AF_VSOCK};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

    if (fd < 0)
        die("socket");
    parent.svm_cid = (unsigned int)number("hb_cid", 3);
    parent.svm_port = (unsigned int)number("hb_port", 9000);
    /* The kernel gives up after 2 s: a busy machine that emulates its guests takes longer. */
    if (setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof patience) < 0)
        die("SO_VM_SOCKETS_CONNECT_TIMEOUT");
    if (connect(fd, (struct sockaddr *)&parent, sizeof parent) < 0) {
        printf("init: connect: %s\n", strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

/* Silent connections, which last as long as the guest does. */
static void hold(long count)
{
    for (long left = count; left > 0; left--)
        connected();
    if (count > 0)
        printf("init: holds %ld\n", count);
    fflush(stdout);
}

static enum outcome answer(int fd, unsigned char sent)
{
    unsigned char got;

    if (read(fd, &got, 1) != 1)
        return END;
    return got == sent ? ECHOED : OTHER_BYTE;
}

/* What a guest does with a connection. */
static enum outcome say(int fd, unsigned char byte)
{
    return write(fd, &byte, 1) == 1 ? answer(fd, byte) : END;
}

static enum outcome boot(int fd)
{
    return say(fd, (unsigned char)number("hb_byte", 0xB7));
}

static enum outcome wrong(int fd)
{
    return say(fd, 0x42);
}

static enum outcome silent(int fd)
{
    return answer(fd, 0xB7);
}

static enum outcome leave(int fd)
{
    (void)fd;
    return END;
}

static enum outcome deaf(int fd)
{
    unsigned char byte = 0xB7;

    return write(fd, &byte, 1) == 1 ? END : REFUSED;
}

static enum outcome shout(int fd)
{
    /* No more, since vhost-device-vsock 0.3.0 loses what is larger on its way to a sibling. */
    static const char block[1024] = "\xB7 and a great deal more than anybody wants to know";
    const char *rest = block;
    ssize_t written;

    for (size_t left = sizeof block; left > 0 && (written = write(fd, rest, left)) > 0;) {
        left -= (size_t)written;
        rest += written;
    }
    return answer(fd, 0xB7);
}

static const struct manner {
    const char *name;
    enum outcome (*talk)(int fd);
} manners[] = {
    {"boot", boot},     /* what an enclave does */
    {"wrong", wrong},   /* another byte, to see it refused */
    {"silent", silent}, /* connect, and wait for the end */
    {"leave", leave},   /* connect and close, as images of before May 2020 do */
    {"deaf", deaf},     /* send the byte and close without reading, as some to July 2020 do */
    {"shout", shout},   /* the byte, and 1 KiB behind it */
};
#define MANNERS (sizeof manners / sizeof *manners)

static const struct manner *by_name(const char *name)
{
    for (size_t i = 0; i < MANNERS; i++)
        if (strcmp(manners[i].name, name) == 0)
            return &manners[i];
    errno = EINVAL;
    die("hb_manner");
    return NULL;
}

/* A boot twice as often as any other manner. The dice are an LCG's, so that a seed can be replayed. */
static const struct manner *throw_dice(void)
{
    static uint64_t state;
    size_t face;

    if (state == 0)
        state = (uint64_t)number("hb_seed", 1);
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    face = (size_t)(state >> 33) % (MANNERS + 1);
    return &manners[face == MANNERS ? 0 : face];
}

static void meet_parent(const struct manner *manner)
{
    enum outcome outcome = REFUSED;
    int fd = connected();

    if (fd >= 0) {
        printf("init: connected\n");
        fflush(stdout);
        pause_for(number("hb_late", 0));
        outcome = manner->talk(fd);
        close(fd);
    }
    printf("init: %s: %s\n", manner->name, names[outcome]);
    fflush(stdout);
}

static void be_an_enclave(void)
{
    const char *name = getenv("hb_manner");
    int has_dice = name && strcmp(name, "dice") == 0;

    pause_for(number("hb_delay", 300));
    hold(number("hb_hold", 0));
    for (long left = number("hb_count", 1); left > 0; left--)
        meet_parent(has_dice ? throw_dice() : by_name(name ? name : "boot"));
    printf("init: done\n");
}

static void become(const char *program)
{
    mount_on("sysfs", "/sys");
    mount_on("tmpfs", "/run");
    mount_on("tmpfs", "/tmp");
    execl(program, program, (char *)NULL);
    die(program);
}

int main(void)
{
    const char *program = getenv("hb_run");

    mount_on("devtmpfs", "/dev");
    mount_on("proc", "/proc");
    printf("init: started\n");
    fflush(stdout);
    load_modules();
    if (program)
        become(program);
    be_an_enclave();
    end();
}
