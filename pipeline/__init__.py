"""What MIND is: the domain, without Prefect, artifact store or process management."""
