# SPDX-License-Identifier: Apache-2.0
"""What this machine can do for heartbeats, what it lacks, and what helps.

``probes`` and ``selftest`` look, ``verdicts`` judges, ``examine`` runs each check with a deadline.
"""
