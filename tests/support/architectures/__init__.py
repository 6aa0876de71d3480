"""The causal architectures of transformers, as small models."""
