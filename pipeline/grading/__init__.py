"""Reads a model's answer from its text and compares it with the gold answer; one file per answer type.

Read `grade.py` first, then `reading.py`. docs/grading.md has the rules.
"""
