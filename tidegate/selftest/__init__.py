"""Every gate against seeded faults: proof that each can say no. `tidegate gate selftest` runs it.

`room` is where a fault is planted: a throwaway checkout with the real data, model and service. Each gate
has a module here with its FAULTS, `runner` tries them one after the other.
"""
