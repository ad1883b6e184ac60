# SPDX-License-Identifier: Apache-2.0
"""A kernel with AF_VSOCK and its loopback."""
