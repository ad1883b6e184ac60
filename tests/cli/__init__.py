# SPDX-License-Identifier: Apache-2.0
"""The console script as a process: its output, its exit codes, and what it leaves behind."""
