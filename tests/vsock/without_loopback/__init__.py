# SPDX-License-Identifier: Apache-2.0
"""A kernel with AF_VSOCK, but without its loopback."""
