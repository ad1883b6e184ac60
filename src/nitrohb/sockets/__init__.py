# SPDX-License-Identifier: Apache-2.0
"""Sockets, without an event loop: opened, passed in, read and written."""
