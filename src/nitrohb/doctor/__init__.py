# SPDX-License-Identifier: Apache-2.0
"""Whether the heartbeat of an enclave can arrive on this machine, and what helps if not.

``probes`` and ``selftest`` look, ``verdicts`` judges, ``examine`` runs each check with a deadline.
"""
