# SPDX-License-Identifier: Apache-2.0
"""Whole guests boot against nitrohb: ``nox -s enclave``.

Every part is real: QEMU, Debian's cloud kernel, vhost-device-vsock, and an init (``init.c``) that
does what the init of an enclave does. :mod:`.machines` starts them, :mod:`.parts` builds them.

pytest collects these tests only if you name them: they take minutes, and need the parts that the
session makes.
"""
