"""The log of predictions, the toolkit's side: segments that services wrote become Parquet, and answer SQL.

{home}/predictions/
  segments/<model>/*.open, *.closed     what services write (tidegate.serving.predictions)
  model=<model>/day=<YYYY-MM-DD>/       part-<segment>.parquet, and merged-<digest>.parquet of many
  erasures.jsonl, salt                  who was erased: when, how many, a keyed hash
  work.lock, read.lock, turn.lock       one that changes files at a time; none while somebody reads

- `store`: what can be done with the folder
- `files`: which files count, and how one takes the place of others
- `tables`: from records to columns
- `sql`: DuckDB, held to these files
- `merging`: small files become large ones
- `erasing`: tombstones, and whose a row is
"""

from tidegate.adapters.predictions.sql import Table
from tidegate.adapters.predictions.store import Compacted, Converted, Erased, PredictionStore

__all__ = ["Compacted", "Converted", "Erased", "PredictionStore", "Table"]
