"""Questions: sources, row reading, column mapping, procedural questions, deduplication and decontamination.

Read `question.py` first, then `load.py`: a checked stream of questions from any source.
"""
