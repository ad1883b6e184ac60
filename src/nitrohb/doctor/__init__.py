# SPDX-License-Identifier: Apache-2.0
"""What this machine can do for heartbeats, what it cannot, and how to mend that.

``observing`` and ``holders`` look at the machine, and say what they saw, an errno or a word.
``judging`` makes verdicts of that, and looks at nothing. ``examining`` does both, check by check,
each with a deadline.
"""
