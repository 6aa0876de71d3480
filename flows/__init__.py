"""Wiring only: Prefect flows around stages that do not know of Prefect."""
