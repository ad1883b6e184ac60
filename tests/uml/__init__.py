# SPDX-License-Identifier: Apache-2.0
"""A real AF_VSOCK for the tests, from User Mode Linux; see :mod:`.launcher`."""
