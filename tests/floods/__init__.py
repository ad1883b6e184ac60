# SPDX-License-Identifier: Apache-2.0
"""Floods and faults against the real server process: an honest enclave gets its echo meanwhile.

Every part is real: the server is ``python -m nitrohb serve --keep`` as a process, the flooders and
the honest enclave (:mod:`.clients`) are processes of their own, so that the server can tell them
apart, and all of them meet at a Unix socket or, inside the User Mode Linux guest, on AF_VSOCK.

What happens is one list, :data:`.scenarios.SCENARIOS`. The tests assert what the server does, never
how long it takes.
"""
