"""The configuration of a run as frozen pydantic models, one file per section of the YAML file.

Read `run.py` first: it holds the whole run and loads it. docs/config.md is generated from these models.
"""
