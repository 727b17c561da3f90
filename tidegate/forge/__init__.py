"""The local forge's inside: which workflows a push starts, and the records of their runs."""
