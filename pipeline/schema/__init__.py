"""Building blocks of every configuration model: identity and runtime fields, and strict reading of YAML files.

Read `fields.py` first: it says which fields enter a fingerprint.
"""
