# SPDX-License-Identifier: Apache-2.0
"""The console script, as a process: what it prints, what it leaves, and its exit codes."""
