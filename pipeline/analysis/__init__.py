"""Statistics and plots over finished answers and trained models: intervals and paired tests, hidden states, MetaNet's preferences,
the promotion decision.

Read `statistics.py` first.
"""
