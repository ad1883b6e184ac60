# SPDX-License-Identifier: Apache-2.0
"""The documentation: its examples run, and it agrees with the code."""
