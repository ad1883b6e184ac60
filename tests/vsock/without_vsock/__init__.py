# SPDX-License-Identifier: Apache-2.0
"""A kernel without AF_VSOCK."""
