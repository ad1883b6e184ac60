# SPDX-License-Identifier: Apache-2.0
"""The documentation: its examples run, and what it takes from the code is true."""
