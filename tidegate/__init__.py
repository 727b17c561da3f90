"""Tidegate: GitOps continuous delivery for machine-learning models."""
