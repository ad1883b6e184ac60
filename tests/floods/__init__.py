# SPDX-License-Identifier: Apache-2.0
"""Floods and faults against the real server process. It still answers a correct enclave.

The server is the process ``python -m nitrohb serve --keep``. Each flooder and the correct enclave
(:mod:`.clients`) is a separate process, so the server can tell them apart. They connect to a Unix
socket or, inside User Mode Linux, over AF_VSOCK.

:data:`.scenarios.SCENARIOS` lists what happens. The tests check what the server does, never how
long it takes.
"""
