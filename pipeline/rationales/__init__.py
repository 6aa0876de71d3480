"""Rationales: selection from graded samples, the answer sentence, diversity, and import from files.

Read `curation.py` first.
"""
