# SPDX-License-Identifier: Apache-2.0
"""The benchmark: nitrohb beside alternatives. See ``python bench/run.py --help``."""
