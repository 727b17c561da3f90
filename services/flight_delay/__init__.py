"""The service that says whether a flight will be late."""
