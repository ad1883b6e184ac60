# SPDX-License-Identifier: Apache-2.0
"""Whole guests boot against nitrohb: ``nox -s enclave``.

Every part is real: QEMU, Debian's cloud kernel, vhost-device-vsock, and an init (``init.c``) that
does what an enclave's init does. :mod:`.machines` starts them, :mod:`.parts` says where they are.

pytest does not look for tests in here unless it is told to: they take minutes, and need the parts
that the session brings.
"""
