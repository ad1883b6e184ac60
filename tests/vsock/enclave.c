/* SPDX-License-Identifier: Apache-2.0
 *
 * The inits that there are, each with the system calls that it makes on AF_VSOCK, in their order.
 *
 *     enclave CID PORT [BYTE [CLIENT]]
 *
 * Exits 0 if the client goes on to its application, else with the reason: see enum end.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum end { GOES_ON, WRONG_BYTE, NO_BYTE, NO_CONNECTION, NO_ARGUMENTS, USAGE = 64 };

static struct sockaddr_vm parent = {.svm_family = AF_VSOCK};
static unsigned char byte = 0xB7;

static enum end aws(int fd)
{
    unsigned char got;

    if (write(fd, &byte, 1) != 1 || read(fd, &got, 1) != 1)
        return NO_BYTE;
    return got == byte ? GOES_ON : WRONG_BYTE;
}

static enum end leave(int fd)
{
    (void)fd;
    return GOES_ON;
}

static enum end write_only(int fd)
{
    return write(fd, &byte, 1) == 1 ? GOES_ON : NO_BYTE;
}

static enum end signed_char(int fd)
{
    signed char got; /* -73, where 183 was sent */

    if (write(fd, &byte, 1) != 1 || read(fd, &got, 1) != 1)
        return NO_BYTE;
    return got == byte ? GOES_ON : WRONG_BYTE;
}

static enum end go(int fd)
{
    unsigned char got = 0;

    if (write(fd, &byte, 1) < 0 || read(fd, &got, 1) < 0)
        return NO_BYTE;
    return got == byte ? GOES_ON : WRONG_BYTE;
}

static enum end rust(int fd)
{
    ssize_t ignored = write(fd, &byte, 1);

    ignored = read(fd, &byte, 1);
    (void)ignored;
    return GOES_ON;
}

static enum end service_manager(int fd)
{
    aws(fd);
    return GOES_ON;
}

/* What socat does once its input has ended: it copies what comes for half a second more. */
static enum end socat(int fd)
{
    struct pollfd answer = {.fd = fd, .events = POLLIN};
    unsigned char got;

    if (write(fd, &byte, 1) != 1 || shutdown(fd, SHUT_WR) < 0)
        return NO_BYTE;
    while (poll(&answer, 1, 500) == 1 && read(fd, &got, 1) == 1)
        if (write(STDOUT_FILENO, &got, 1) != 1)
            break;
    return GOES_ON;
}

static int receive_size(int fd, uint32_t *size)
{
    return read(fd, size, sizeof *size) == sizeof *size;
}

static int receive_object(int fd)
{
    char data[64];
    uint32_t left;
    ssize_t got;

    if (!receive_size(fd, &left))
        return 0;
    for (; left > 0; left -= (uint32_t)got)
        if ((got = read(fd, data, left < sizeof data ? left : sizeof data)) <= 0)
            return 0;
    return 1;
}

static int receive_list(int fd)
{
    uint32_t left;

    if (!receive_size(fd, &left))
        return 0;
    while (left > 0 && receive_object(fd))
        left--;
    return left == 0;
}

/* The root file system, the program, its arguments, and its environment come after the echo. */
static enum end libkrun(int fd)
{
    enum end end = aws(fd);

    if (end != GOES_ON)
        return end;
    return receive_object(fd) && receive_object(fd) && receive_list(fd) && receive_list(fd)
               ? GOES_ON
               : NO_ARGUMENTS;
}

static const struct client {
    const char *name;
    enum end (*talk)(int fd); /* NULL: makes no connection */
    enum end alone;           /* its end if nobody listens */
    int tries;                /* a second apart */
    int by_cid;               /* connects to CID 2, and to the port after its CID */
} clients[] = {
    /* init.c of aws-nitro-enclaves-sdk-bootstrap, at these dates */
    {"aws", aws, NO_CONNECTION, 1, 0}, /* since 2020-07-06 */
    {"aws-2020-01-15", NULL, GOES_ON, 1, 0},
    {"aws-2020-01-16", leave, NO_CONNECTION, 1, 0},
    {"aws-2020-05-12", write_only, NO_CONNECTION, 1, 0},
    {"aws-2020-07-02", signed_char, NO_CONNECTION, 1, 0},
    /* a Go init for reproducible images: it does not look at how much it has read */
    {"go", go, NO_CONNECTION, 1, 0},
    /* nitro_heartbeat() of a Rust init for key management, and of its forks */
    {"rust", rust, GOES_ON, 1, 0},
    /* enclave_ready() of Sentient's enclave-init, a service manager: logs a failure, and goes on */
    {"service-manager", service_manager, GOES_ON, 1, 0},
    /* a shell script: printf of the byte into socat, until socat succeeds */
    {"shell", socat, NO_CONNECTION, 10, 0},
    /* libkrun's init/nitro: main.c and vsock.c, which name CID 3 and port 9000 */
    {"libkrun-old", libkrun, NO_CONNECTION, 1, 0},
    /* libkrun's init/aws-nitro: cid_fetch() in main.c, args_reader.c (which goes on with arguments) */
    {"libkrun", aws, NO_CONNECTION, 1, 1},
};

static const struct client *find_client(const char *name)
{
    for (size_t i = 0; i < sizeof clients / sizeof *clients; i++)
        if (strcmp(clients[i].name, name) == 0)
            return &clients[i];
    return NULL;
}

static unsigned int own_cid(void)
{
    unsigned int cid = 0;
    int fd = open("/dev/vsock", O_RDONLY);

    if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
        perror("/dev/vsock");
    close(fd);
    return cid;
}

static int connected(void)
{
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&parent, sizeof parent) == 0)
        return fd;
    fprintf(stderr, "connect: %s\n", strerror(errno));
    close(fd);
    return -1;
}

static enum end boot(const struct client *client)
{
    enum end end = client->alone;
    int fd = -1;

    for (int left = client->tries; client->talk && fd < 0 && left > 0; left--) {
        fd = connected();
        if (fd < 0 && left > 1)
            sleep(1);
    }
    if (fd >= 0) {
        end = client->talk(fd);
        close(fd);
    }
    return end;
}

int main(int argc, char **argv)
{
    const struct client *client = find_client(argc > 4 ? argv[4] : "aws");

    if (argc < 3 || argc > 5 || !client) {
        fprintf(stderr, "usage: %s CID PORT [BYTE [CLIENT]]\n", argv[0]);
        return USAGE;
    }
    signal(SIGPIPE, SIG_IGN); /* since about Linux 6.12, a write to a closed peer raises it */
    parent.svm_cid = client->by_cid ? VMADDR_CID_HOST : (unsigned int)strtoul(argv[1], NULL, 0);
    parent.svm_port = client->by_cid ? own_cid() + 1 : (unsigned int)strtoul(argv[2], NULL, 0);
    if (argc > 3)
        byte = (unsigned char)strtoul(argv[3], NULL, 0);
    return boot(client);
}
