# SPDX-License-Identifier: Apache-2.0
"""The examples of the documentation run: pages, README, and the examples for curl."""
