"""The agent of one plane: `loop` looks and decides each second, by `sight`, `gitview`, `desk` and `hands`.

Slow work runs in `jobs`, beside the looks; `locks` keeps two agents off one plane of this machine, and
`mirror` lets the registry's aliases say what Git says; `keeping` puts the log of predictions in order.
"""
