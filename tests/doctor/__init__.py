# SPDX-License-Identifier: Apache-2.0
"""What `nitrohb doctor` sees, and what it makes of it."""
