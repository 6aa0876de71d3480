"""The MIND domain: methods, models and data, without Prefect, the artifact store or process management."""
