"""The version, here alone in Python; csrc/convrnn.h holds it for C, and a test compares the two."""

__version__ = "0.1.0"
