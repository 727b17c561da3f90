# The same verbs on a laptop and in CI. Every target makes .venv by itself; it is quick when it is there.
PYTHON ?= python3
BIN := .venv/bin
UV_VERSION := 0.13.9
READY := .venv/.ready

.PHONY: setup demo test faults check bench clean lock

setup: $(READY)

# The stamp is written last, so an interrupted install is done again, never half used.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tidegate needs Python 3.11 or newer; name it with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "setting up .venv (once; half a minute to a few, by the network)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)
	@exec $(BIN)/tidegate demo

# Files keep the order that tests/conftest.py gives them: the longest first.
test: check
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# Each fault RUNS times, then ROUNDS promotions and as many rollbacks, RATE requests a second; prints a table and
# fails when a promise is broken. On two quiet cores RUNS=3 ROUNDS=100 takes about half an hour.
RUNS ?= 3
ROUNDS ?= 100
RATE ?= 200
faults: $(READY)
	@FAULT_RUNS=$(RUNS) FAULT_ROUNDS=$(ROUNDS) FAULT_RATE=$(RATE) FAULT_SECONDS=5 \
	  $(BIN)/pytest -q tests/faults

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/actionlint
	@$(BIN)/zizmor --offline --quiet .github

# ONLY="name …" runs some entries. Service and agent are measured with the real model, so all of them need it made.
bench: $(READY)
	@$(if $(ONLY),,PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro)
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY))

lock: $(READY)
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --extra dev \
	  --python-version 3.11 pyproject.toml -o requirements.lock
	@sed -n 's/^onnxruntime==\([^ ;]*\).*/onnxruntime-gpu==\1/p' requirements.lock | \
	  $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  --python-version 3.11 --constraint requirements.lock - -o requirements-gpu.lock

# Stops and removes the demo, and what builds and tests leave. It leaves alone what serves: .tidegate/ holds
# the state, the registry and the Bentos of this checkout's planes (`tidegate down`, then remove it yourself).
clean:
	@home=.tidegate/demo/clone/.tidegate; \
	if [ -d $$home/planes ]; then TIDEGATE_HOME=$$home $(BIN)/tidegate down --quiet || exit 1; fi
	@rm -rf .tidegate/demo build data dvc_plots .pytest_cache .mypy_cache .ruff_cache .hypothesis
