"""Speed benchmarks, as ratios of two implementations that do the same work: `mind bench speed`.

Absolute figures belong to one machine. A ratio measured in one run, with alternating repeats, also holds on other machines and on a busy
one. Every comparison is between *sides* (`timing.py`) with equal work; a side calls the product's own code, never a copy.
"""
