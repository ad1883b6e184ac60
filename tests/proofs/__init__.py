# SPDX-License-Identifier: Apache-2.0
"""Proofs of the HTTP interface with programs that others have made.

Each needs such a program, and has a session of its own in the noxfile. The other tests run without:
pytest does not look for tests in here unless it is told to.
"""
