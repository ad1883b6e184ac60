# SPDX-License-Identifier: Apache-2.0
"""The tests of nitrohb, and the beds that some of them run in."""
