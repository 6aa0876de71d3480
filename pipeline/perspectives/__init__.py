"""Perspectives, the ways of reasoning that a teacher is asked for, as data; and the check of a rationale's form.

Read `eight.yaml` first.
"""
