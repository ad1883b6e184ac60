# SPDX-License-Identifier: Apache-2.0
"""A kernel with vsock namespaces (Linux 7.0 and later), and the loopback of each."""
