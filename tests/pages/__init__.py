# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows is executed: pages, README, and the examples for curl."""
