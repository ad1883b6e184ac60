# SPDX-License-Identifier: Apache-2.0
"""Tests that need a real AF_VSOCK: ``nox -s vsock`` boots one kernel for each directory."""
