# SPDX-License-Identifier: Apache-2.0
"""Tests that need a real AF_VSOCK: run by ``nox -s vsock``, in kernels that it boots itself."""
