"""The sampling stage: the teacher writes graded rationales per question and perspective, or imported ones take their place.

Read `stage.py` first, then `samples.py`.
"""
