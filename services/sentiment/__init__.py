"""The service that says whether a text is negative, neutral or positive."""
