"""One BentoML service a model; each imports no training code but its model's features.py."""
