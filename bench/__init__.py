"""What `make bench` measures; each entry is explained in docs/benchmarks.md."""
