/* SPDX-License-Identifier: Apache-2.0
 *
 * What an enclave's init does on AF_VSOCK, and no more: socket, connect, write one byte, read one
 * byte, close. No time limit, no retry, no half-close.
 *
 *     enclave CID PORT [BYTE]
 *
 * Exits 0 if the byte came back, 1 if another came, 2 if none did, 3 if it could not connect.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static int beat(int fd, unsigned char sent)
{
    unsigned char got;

    if (write(fd, &sent, 1) != 1 || read(fd, &got, 1) != 1)
        return 2;
    return got == sent ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct sockaddr_vm parent = {.svm_family = AF_VSOCK};
    int fd, outcome;

    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: %s CID PORT [BYTE]\n", argv[0]);
        return 64;
    }
    signal(SIGPIPE, SIG_IGN); /* from about Linux 6.12 on, a write to a closed peer raises it */
    parent.svm_cid = (unsigned int)strtoul(argv[1], NULL, 0);
    parent.svm_port = (unsigned int)strtoul(argv[2], NULL, 0);
    fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&parent, sizeof parent) < 0) {
        fprintf(stderr, "connect: %s\n", strerror(errno));
        return 3;
    }
    outcome = beat(fd, argc == 4 ? (unsigned char)strtoul(argv[3], NULL, 0) : 0xB7);
    close(fd);
    return outcome;
}
