"""The models of this repository: one package a model, and what they share."""
