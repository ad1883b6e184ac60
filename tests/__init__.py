# SPDX-License-Identifier: Apache-2.0
"""The tests of nitrohb, and the machines and kernels that some of them boot."""
