# SPDX-License-Identifier: Apache-2.0
"""The benchmark: nitrohb beside what people would use instead. ``python bench/run.py --help``."""
