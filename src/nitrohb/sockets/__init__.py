# SPDX-License-Identifier: Apache-2.0
"""Sockets without an event loop: how to open, inherit, read and write them."""
