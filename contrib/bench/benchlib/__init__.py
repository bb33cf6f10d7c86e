# SPDX-License-Identifier: MIT
"""What contrib/bench/dedup is made of."""
