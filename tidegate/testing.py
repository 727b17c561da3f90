"""In-memory fakes of every port, shipped, and held to the same contract suite as the real adapters."""

from __future__ import annotations
