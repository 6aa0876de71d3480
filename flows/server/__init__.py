"""What surrounds Prefect's server: a temporary one for a command, the deployments of a lasting one, and the reports that its pages link to.

Read `temporary.py` first: it says how a command and its server end together.
"""
