"""The report stage: one self-contained page with plots and findings."""
