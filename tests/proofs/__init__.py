# SPDX-License-Identifier: Apache-2.0
"""Tests with programs of other projects, such as Prometheus and a browser.

Each needs its program and has a nox session. pytest collects them only if you name them.
"""
