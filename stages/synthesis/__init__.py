"""The synthesis stage: difficulty, selection of rationales, MetaNet's features and warm-up.

Read `stage.py` first, then `selection.py`.
"""
