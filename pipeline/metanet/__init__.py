"""MetaNet, the teaching assistant: its network, features and warm-up, the inertia of its targets, and the mixture weights from its scores.

Read `network.py` first, then `inertia.py` and `selection_and_weights.py`.
"""
