#!/usr/bin/env bash
# Puts the environment's programs on the PATH of later steps, and the checkout's own `tidegate` first.
set -euo pipefail
venv="${TIDEGATE_VENV:-}"
if [ -z "$venv" ]; then
  make setup
  venv="$GITHUB_WORKSPACE/.venv"
fi
echo "$venv/bin" >> "$GITHUB_PATH"
# The environment may hold another version of the toolkit: what was pushed is what must run.
echo "PYTHONPATH=$GITHUB_WORKSPACE" >> "$GITHUB_ENV"
