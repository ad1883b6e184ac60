/* SPDX-License-Identifier: Apache-2.0
 *
 * Lets User Mode Linux 6.1 run on processors with AMX. Preloaded (ld.so(8)) into its kernel only.
 *
 * That kernel keeps a process's extended state in 2,696 bytes, which is all that there is up to
 * AVX-512 (sizeof(struct _xstate), arch/x86/um/user-offsets.c). The host has 11,008 with AMX, and
 * PTRACE_SETREGSET takes the whole of it or fails (xstateregs_set(), arch/x86/kernel/fpu/regset.c),
 * upon which the guest's init is killed. So a shorter one is written over the beginning of the
 * whole that the process has. The guest cannot come to have anything of its own in the rest: a
 * process must ask for AMX by an arch_prctl(2) that the guest's kernel does not know.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static long (*next)(int request, long pid, void *address, void *data);
static char whole[1 << 16];

__attribute__((constructor)) static void find_next(void)
{
	next = (long (*)(int, long, void *, void *))dlsym(RTLD_NEXT, "ptrace");
}

static long set_beginning(long pid, void *type, const struct iovec *part)
{
	struct iovec all = { whole, sizeof whole };

	if (next(PTRACE_GETREGSET, pid, type, &all) < 0)
		return -1;
	if (part->iov_len < all.iov_len)
		memcpy(whole, part->iov_base, part->iov_len);
	else
		all = *part;
	return next(PTRACE_SETREGSET, pid, type, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	long pid = va_arg(arguments, int);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
		return set_beginning(pid, address, data);
	return next(request, pid, address, data);
}
