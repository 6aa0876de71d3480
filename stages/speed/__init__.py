"""How fast it is, as ratios of two things that do the same work side by side: `mind bench speed`.

Absolute figures belong to a machine; a ratio taken in one run, in alternating repeats, holds on others and on a busy one. Every comparison
is between *sides* (`sides.py`) of equal work; what a side computes is that of the product itself, called directly, never a copy.
"""
