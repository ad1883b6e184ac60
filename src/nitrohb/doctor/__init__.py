# SPDX-License-Identifier: Apache-2.0
"""Checks whether the heartbeat of an enclave can arrive on this machine, and how to help.

``probes`` and ``selftest`` look, ``verdicts`` judges, ``examine`` runs each check with a deadline.
"""
