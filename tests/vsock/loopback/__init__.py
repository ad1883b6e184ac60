# SPDX-License-Identifier: Apache-2.0
"""A kernel with AF_VSOCK, its loopback, and sock_diag for it."""
