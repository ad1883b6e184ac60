# SPDX-License-Identifier: Apache-2.0
"""What this machine can do for heartbeats, what it lacks, and what helps.

``probes`` and ``selftest`` look at the machine and return what they saw. ``verdicts``
turns that into findings, and looks at nothing. ``examine`` runs every check, each with a deadline.
"""
