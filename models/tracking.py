"""Log a training run to the registry that platform.yaml names; the same for every model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.layout import Layout
from tidegate import plumbing, wiring


def log_run(
    layout: Layout,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    curves: Mapping[str, list[float]],
    tags: Mapping[str, str],
) -> str:
    """Log one run with the commit it was made at, and return its id; nested parameters get dotted names."""
    root = layout.root.absolute()
    runs = wiring.runs(wiring.platform(root, "production"), wiring.home(root))
    run = runs.log_run(
        layout.model,
        parameters=dict(_flat(parameters)),
        metrics=metrics,
        curves=curves,
        tags={**tags, "commit": commit(root)},
    )
    print(f"logged to MLflow as run {run}", flush=True)
    return run


def commit(root: Path) -> str:
    """Return the checkout's commit, marked `-dirty` when tracked files differ from it.

    dvc.lock and envs/ may differ: a run of the pipeline rewrites them.
    """
    head = plumbing.git(root, "rev-parse", "HEAD").strip()
    changed = plumbing.git(root, "diff", "--name-only", "HEAD", "--", ".", ":!dvc.lock", ":!envs")
    return f"{head}-dirty" if changed.strip() else head


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in content.items():
        inner = isinstance(value, Mapping)
        pairs += _flat(value, f"{prefix}{key}.") if inner else [(f"{prefix}{key}", value)]
    return pairs
