# SPDX-License-Identifier: Apache-2.0
"""nitrohb under systemd, in the eyes of systemd's own programs. See ``nox -s systemd``."""
