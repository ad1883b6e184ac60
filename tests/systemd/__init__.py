# SPDX-License-Identifier: Apache-2.0
"""nitrohb under the real programs of systemd: ``nox -s systemd``."""
