# SPDX-License-Identifier: Apache-2.0
"""The doctor: its probes, its verdicts and the examination."""
