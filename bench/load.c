/* SPDX-License-Identifier: Apache-2.0
 *
 * The load client of the benchmark: sends heartbeats, and checks every byte of the answers.
 *
 *     load --socket PATH [OPTION VALUE]...
 *     load --socket vsock:PORT [OPTION VALUE]...   to CID 1, only inside User Mode Linux
 *
 *     --seconds S       stop after S seconds (default 1)
 *     --count N         stop after N heartbeats; without --seconds, there is no time limit
 *     --warmup N        heartbeats at first that are checked, but not counted (default 0)
 *     --connections N   heartbeats at a time, 1 to 64 (default 1)
 *     --delay-us T      send the byte T us after the connection (default 0); spins until then, or
 *                       sleeps if there is only one processor, which the server needs
 *     --pause-us T      sleep between heartbeats, T us on average, at random
 *     --idle K          hold K silent connections open (default 0)
 *     --hold 1          print {"held": K} when the server has accepted them, and wait for the end
 *                       of stdin
 *     --client-closes 1 close first: the server does not close after its echo
 *     --deadline S      fail after S seconds in all (default 60)
 *
 * A latency is the time from connect() to the echoed byte, or with --delay-us, from sending the
 * byte. The server must then close: anything but the byte and the end of the stream is an error.
 * Prints one JSON object: p50_us, p99_us, max_us, rate (heartbeats per second), count, seconds,
 * errors. Exits with 1 if there were errors.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { HEARTBEAT = 0xB7, MOST_SLOTS = 64, MOST_SAMPLES = 1 << 22, MOST_ERRORS = 10 };

struct options {
    const char *socket;
    double seconds;
    long count, warmup, connections, delay_us, pause_us, idle, hold, client_closes, deadline;
};

struct slot {
    int fd;
    int echoed;
    int64_t start; /* ns */
};

static struct options opt = {.connections = 1, .deadline = 60};
static union {
    struct sockaddr any;
    struct sockaddr_un un;
    struct sockaddr_vm vm;
} address;
static socklen_t address_size;
static int alone; /* the client and the server share one processor */
static uint32_t *samples; /* ns */
static long sampled, beats, errors;
static int64_t stop_at; /* ns; 0: no time limit */
static long most;

static int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

static void too_late(int number)
{
    static const char text[] = "load: no answer before the deadline\n";

    (void)number;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(3);
}

static void error(const char *what, int byte)
{
    if (errors++ < MOST_ERRORS)
        fprintf(stderr, "load: %s (%d, %s)\n", what, byte, strerror(errno));
}

static void note(int64_t start)
{
    int64_t latency = now() - start;

    if (sampled < MOST_SAMPLES)
        samples[sampled++] = latency < UINT32_MAX ? (uint32_t)latency : UINT32_MAX;
}

static int open_socket(void)
{
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        fail("socket");
    return fd;
}

/* Connect a socket, and return it. If the queue of a Unix socket is full, connect() waits. AF_VSOCK
 * resets, and such a socket cannot connect again: try another one. */
static int connect_to_server(int fd)
{
    static const struct timespec pause = {.tv_nsec = 1000000};

    while (connect(fd, &address.any, address_size) < 0) {
        if (errno != ECONNRESET)
            fail("connect");
        close(fd);
        nanosleep(&pause, NULL);
        fd = open_socket();
    }
    return fd;
}

static void send_byte(int fd)
{
    static const unsigned char byte = HEARTBEAT;

    if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
        error("the byte could not be sent", -1);
}

/* Check that recv() returned the echo. */
static int is_echo(ssize_t size, const unsigned char *data)
{
    errno = size < 0 ? errno : 0;
    if (size == 1 && data[0] == HEARTBEAT)
        return 1;
    error("expected one byte 183", size > 0 ? data[0] : -1);
    return 0;
}

/* Wait some microseconds. Returns the time after that. */
static int64_t wait_us(long us)
{
    int64_t time, end = now() + us * 1000;
    struct timespec until = {end / 1000000000, end % 1000000000};

    if (alone)
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
            ;
    while ((time = now()) < end)
        ;
    return time;
}

/* Send one heartbeat with blocking calls, like the init of an enclave. */
static void beat(void)
{
    unsigned char data[2];
    int fd = open_socket();
    int64_t start = now();

    fd = connect_to_server(fd);
    if (opt.delay_us > 0)
        start = wait_us(opt.delay_us);
    send_byte(fd);
    if (is_echo(recv(fd, data, sizeof data, 0), data)) {
        note(start);
        if (!opt.client_closes && recv(fd, data, sizeof data, 0) != 0)
            error("expected the end of the stream", -1);
    }
    close(fd);
    beats++;
}

static void begin(struct slot *slot)
{
    int fd = open_socket();

    slot->echoed = 0;
    slot->start = now();
    slot->fd = connect_to_server(fd);
    send_byte(slot->fd);
}

static void end(struct slot *slot)
{
    close(slot->fd);
    slot->fd = -1;
    beats++;
}

/* Receive for a slot. End it after its echo and the end of its stream. */
static void proceed(struct slot *slot)
{
    unsigned char data[2];
    ssize_t size = recv(slot->fd, data, sizeof data, MSG_DONTWAIT);

    if (size < 0 && errno == EAGAIN)
        return;
    if (slot->echoed) {
        if (size != 0)
            error("expected the end of the stream", -1);
        end(slot);
        return;
    }
    slot->echoed = is_echo(size, data);
    if (!slot->echoed) {
        end(slot);
        return;
    }
    note(slot->start);
    if (opt.client_closes)
        end(slot);
    else
        proceed(slot);
}

static int more(long count)
{
    return errors == 0 && count < most && (stop_at == 0 || now() < stop_at);
}

static void many_at_a_time(void)
{
    struct slot slots[MOST_SLOTS];
    struct pollfd polls[MOST_SLOTS];
    long begun = 0, open = opt.connections;

    for (long i = 0; i < opt.connections; i++, begun++)
        begin(&slots[i]);
    while (open > 0) {
        for (long i = 0; i < opt.connections; i++)
            polls[i] = (struct pollfd){.fd = slots[i].fd, .events = POLLIN};
        if (poll(polls, (nfds_t)opt.connections, -1) < 0 && errno != EINTR)
            fail("poll");
        for (long i = 0; i < opt.connections; i++) {
            if (polls[i].revents == 0)
                continue;
            proceed(&slots[i]);
            if (slots[i].fd >= 0)
                continue;
            if (more(begun)) {
                begin(&slots[i]);
                begun++;
            } else {
                open--;
            }
        }
    }
}

/* Sleep for a random time, so as not to fall into step with the server. */
static void pause_us(long mean)
{
    struct timespec time = {.tv_nsec = random() % (2 * mean) * 1000};

    nanosleep(&time, NULL);
}

static void one_at_a_time(void)
{
    while (more(beats)) {
        beat();
        if (opt.pause_us > 0)
            pause_us(opt.pause_us);
    }
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static double quantile(double q)
{
    return sampled ? samples[(long)(q * (double)(sampled - 1) + 0.5)] / 1000.0 : 0.0;
}

static void report(double seconds)
{
    qsort(samples, (size_t)sampled, sizeof *samples, compare);
    printf("{\"p50_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f, \"rate\": %.1f, "
           "\"count\": %ld, \"seconds\": %.3f, \"errors\": %ld}\n",
           quantile(0.5), quantile(0.99), quantile(1.0), (double)beats / seconds, beats, seconds,
           errors);
}

/* Open the silent connections. The server accepts connections in order, so it has accepted them
 * when it answers a later heartbeat. */
static void open_idle(void)
{
    struct rlimit limit;
    char end_of_input;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    for (long i = 0; i < opt.idle; i++)
        connect_to_server(open_socket());
    beat();
    if (!opt.hold)
        return;
    printf("{\"held\": %ld}\n", opt.idle);
    fflush(stdout);
    while (read(STDIN_FILENO, &end_of_input, 1) > 0)
        ;
}

static void set_option(const char *name, const char *value)
{
    const struct {
        const char *name;
        long *value;
    } numbers[] = {
        {"--count", &opt.count},       {"--warmup", &opt.warmup},
        {"--connections", &opt.connections}, {"--delay-us", &opt.delay_us},
        {"--pause-us", &opt.pause_us}, {"--idle", &opt.idle},
        {"--hold", &opt.hold},         {"--client-closes", &opt.client_closes},
        {"--deadline", &opt.deadline},
    };

    if (strcmp(name, "--socket") == 0)
        opt.socket = value;
    else if (strcmp(name, "--seconds") == 0)
        opt.seconds = strtod(value, NULL);
    else {
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            if (strcmp(name, numbers[i].name) == 0) {
                *numbers[i].value = strtol(value, NULL, 10);
                return;
            }
        fprintf(stderr, "load: unknown option %s\n", name);
        exit(2);
    }
}

static int in_user_mode_linux(void)
{
    char line[256];
    int found = 0;
    FILE *file = fopen("/proc/cpuinfo", "r");

    while (file && fgets(line, sizeof line, file))
        found |= strstr(line, "User Mode Linux") != NULL;
    if (file)
        fclose(file);
    return found;
}

static void set_address(const char *where)
{
    if (strncmp(where, "vsock:", 6) == 0) {
        if (!in_user_mode_linux()) {
            fprintf(stderr, "load: AF_VSOCK works only inside User Mode Linux\n");
            exit(2);
        }
        address.vm.svm_family = AF_VSOCK;
        address.vm.svm_cid = VMADDR_CID_LOCAL;
        address.vm.svm_port = (unsigned int)strtoul(where + 6, NULL, 10);
        address_size = sizeof address.vm;
        return;
    }
    if (strlen(where) >= sizeof address.un.sun_path) {
        fprintf(stderr, "load: too long: %s\n", where);
        exit(2);
    }
    address.un.sun_family = AF_UNIX;
    strcpy(address.un.sun_path, where);
    address_size = sizeof address.un;
}

static void parse(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2)
        set_option(argv[i], argv[i + 1]);
    if (argc % 2 == 0 || !opt.socket || opt.connections < 1 || opt.connections > MOST_SLOTS
        || (opt.connections > 1 && opt.delay_us > 0)) {
        fprintf(stderr, "usage: load --socket PATH [OPTION VALUE]...\n");
        exit(2);
    }
    set_address(opt.socket);
    alone = sysconf(_SC_NPROCESSORS_ONLN) == 1;
    if (opt.seconds <= 0 && opt.count <= 0)
        opt.seconds = 1;
}

static void warm_up(void)
{
    most = opt.warmup;
    one_at_a_time();
    sampled = beats = 0;
}

int main(int argc, char **argv)
{
    int64_t start;

    parse(argc, argv);
    signal(SIGALRM, too_late);
    alarm((unsigned int)opt.deadline);
    samples = malloc(MOST_SAMPLES * sizeof *samples);
    if (!samples)
        fail("malloc");
    if (opt.idle > 0)
        open_idle();
    warm_up();
    start = now();
    most = opt.count > 0 ? opt.count : INT64_MAX;
    stop_at = opt.seconds > 0 ? start + (int64_t)(opt.seconds * 1e9) : 0;
    if (opt.connections == 1)
        one_at_a_time();
    else
        many_at_a_time();
    report((double)(now() - start) / 1e9);
    return errors > 0;
}
