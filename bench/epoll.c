/* SPDX-License-Identifier: Apache-2.0
 *
 * A heartbeat server in C, with which the benchmark compares the others. One thread and one epoll
 * serve any number of clients. No client can block another.
 *
 *     epoll PATH [eager]
 *     epoll vsock:PORT [eager]    on any CID
 *
 * It follows epoll(7): accept every connection, register it, and read when epoll reports data. With
 * "eager" it reads once right after accept(), and registers only connections that have not sent
 * anything. A server of this kind cannot do much less work.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { HEARTBEAT = 0xB7, BACKLOG = 1024, EVENTS = 256 };

static void fail(const char *what)
{
    perror(what);
    _exit(1);
}

static int listen_on(const struct sockaddr *address, socklen_t size, const char *name)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, address, size) < 0 || listen(fd, BACKLOG) < 0)
        fail(name);
    return fd;
}

static int listen_at(const char *where)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_vm vm = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};

    if (strncmp(where, "vsock:", 6) == 0) {
        vm.svm_port = (unsigned int)strtoul(where + 6, NULL, 10);
        return listen_on((struct sockaddr *)&vm, sizeof vm, where);
    }
    if (strlen(where) >= sizeof un.sun_path) {
        errno = ENAMETOOLONG;
        fail(where);
    }
    strcpy(un.sun_path, where);
    return listen_on((struct sockaddr *)&un, sizeof un, where);
}

/* Register a descriptor for data to read, or connections to accept. */
static void watch(int poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

/* Read, check, echo, close. Returns 0 if there is nothing to read yet, else 1. */
static int answer(int fd)
{
    unsigned char data[4096]; /* unread data would reset the connection */
    ssize_t size = read(fd, data, sizeof data);

    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (size > 0 && data[0] == HEARTBEAT)
        (void)!send(fd, data, 1, MSG_NOSIGNAL); /* fails if the peer has disconnected */
    close(fd);
    return 1;
}

static void accept_all(int poller, int listener, int eager)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        if (!eager || !answer(fd))
            watch(poller, fd);
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        fail("accept4");
}

int main(int argc, char **argv)
{
    struct epoll_event events[EVENTS];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    int eager = argc == 3 && strcmp(argv[2], "eager") == 0;
    int listener;

    if (argc < 2 || argc > 3 || (argc == 3 && !eager)) {
        fprintf(stderr, "usage: %s PATH [eager]\n", argv[0]);
        return 2;
    }
    if (poller < 0)
        fail("epoll_create1");
    listener = listen_at(argv[1]);
    watch(poller, listener);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);

        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++)
            if (events[i].data.fd == listener)
                accept_all(poller, listener, eager);
            else
                answer(events[i].data.fd);
    }
}
