/* SPDX-License-Identifier: Apache-2.0
 *
 * A heartbeat server in C: the yardstick of the benchmark. One thread, one epoll, any number of
 * clients, none of which can block another.
 *
 *     epoll PATH [eager]
 *
 * It is written as epoll(7) shows it: accept every connection that is there, register it, and read
 * when epoll says so. With "eager" it reads once right after accept() and registers only what has
 * sent nothing yet: about the least work that a server of this kind can do.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEARTBEAT = 0xB7, BACKLOG = 1024, EVENTS = 256 };

static void fail(const char *what)
{
    perror(what);
    _exit(1);
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        fail(path);
    }
    strcpy(address.sun_path, path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0
        || listen(fd, BACKLOG) < 0)
        fail(path);
    return fd;
}

/* Register a descriptor for one kind of event: there is something to read, or to accept. */
static void watch(int poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

/* Read, check, echo, close. Returns 0 if there is nothing to read yet, else 1. */
static int answer(int fd)
{
    unsigned char data[4096]; /* what is left unread would reset the peer */
    ssize_t size = read(fd, data, sizeof data);

    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (size > 0 && data[0] == HEARTBEAT)
        (void)!send(fd, data, 1, MSG_NOSIGNAL); /* a peer that has gone needs no echo */
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
