"""Prefect flows around the stages; the stages do not depend on Prefect."""
