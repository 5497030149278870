"""``python -m benchmarks``: times, the limits of the machine they are held against, and other libraries' times.

Run from a checkout; it is no part of the installed package. README.md here says how to read what it prints.
"""
