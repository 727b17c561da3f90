"""One file for each outside system; adapters never import each other."""
