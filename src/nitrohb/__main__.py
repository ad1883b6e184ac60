# SPDX-License-Identifier: Apache-2.0
"""``python -m nitrohb`` is ``nitrohb``."""

import sys

from .cli import main

sys.exit(main())
