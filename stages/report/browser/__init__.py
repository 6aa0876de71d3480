"""The browser of samples in the report: questions with their rationales, weights and answers.

Read `browse.py` first.
"""
