"""Testing: one factor for all deadlines of the tests, for a machine slower than the one they were made on."""

from __future__ import annotations

import os

__all__ = ["SCALE"]

SCALE = float(os.environ.get("DOORSTEP_TEST_SCALE", "1"))
"""What a test multiplies its deadlines by; 1 unless ``DOORSTEP_TEST_SCALE`` says otherwise."""
