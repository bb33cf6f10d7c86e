# SPDX-License-Identifier: MIT
"""What the programs of contrib/bench are made of."""
