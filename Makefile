# Targets of fixed meaning; CI runs the same ones. `make` alone lists them.
PYTHON ?= python3
OUT    ?= data
RUN    ?= runs/default
INPUT  ?=
ARGS   ?=
ACCELERATOR ?=

BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup prepare train demo pretrained test attack check docs wheel-test cluster-test node-test test-python format bench clean

help:
	@echo "make demo                                   serve the shipped model at http://127.0.0.1:8000"
	@echo "make prepare [INPUT=PATH] [OUT=data]        turn RIPE Atlas files, or a simulated Internet, into a store"
	@echo "make train   [OUT=data] [RUN=runs/default]  train the transformer on OUT/store.zarr"
	@echo "make pretrained                             train the shipped model again (half an hour on two cores)"
	@echo "make test | check | format                  run the tests | check format, lint, types | reformat"
	@echo "make attack                                 attack service and ingest, this machine only (half an hour)"
	@echo "make docs | bench                           build the documentation into build/site | run the benchmarks"
	@echo "make wheel-test                             install the wheel elsewhere and ask the shipped model there"
	@echo "make cluster-test                           run Dask on two nodes, and the job scripts on a SLURM, all on this machine (root)"
	@echo "make test-python TEST_PYTHON=python3.13     test stores and tokenizer on another Python"
	@echo "make setup [ACCELERATOR=cpu|cuda12|cuda13]  create .venv with pinned versions, and JAX for the GPU if there is one"
	@echo "make clean                                  remove all build products"
	@echo "ARGS='...' passes further options (make test ARGS=--cov); PYTHON=python3.12 picks the interpreter."

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt tests/stores/s3_server.txt $(if $(filter command,$(origin ACCELERATOR)),again)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "pinglm needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is " + sys.version.split()[0] + ": name another with make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing pinned packages into .venv (a minute or two the first time)"
	@extra=$$($(BIN)/python model/nvidia.py '$(ACCELERATOR)') && $(BIN)/python -m pip install --quiet \
	    --disable-pip-version-check -c constraints.txt -e ".[dev$${extra:+,$$extra}]"
	@test -x .venv/s3/bin/python || $(BIN)/python -m venv .venv/s3
	@.venv/s3/bin/python -m pip install --quiet --disable-pip-version-check -r tests/stores/s3_server.txt
	@touch $@

.PHONY: again
again:

prepare: setup
	$(BIN)/python cli.py prepare $(if $(INPUT),--input '$(INPUT)') --out '$(OUT)' $(ARGS)
	$(BIN)/python cli.py verify-store '$(OUT)/store.zarr'

train: setup
	$(BIN)/python cli.py train --store '$(OUT)/store.zarr' --out '$(RUN)' $(ARGS)

demo: setup
	$(BIN)/python cli.py serve $(ARGS)

# What model/pretrained was made with; its card.json has what came out.
SHIPPED := --preset tiny --steps 16000 --eval-every 1000 --save-every 500 --set prefix_decay=0.02
BUILD := build/pretrained

pretrained: setup
	$(BIN)/python cli.py prepare --out $(BUILD) --validation 0.02
	$(BIN)/python cli.py train --store $(BUILD)/store.zarr --out $(BUILD)/run $(SHIPPED)
	$(BIN)/python cli.py export --model $(BUILD)/run --store $(BUILD)/store.zarr --dtype bfloat16 --calibrate --out model/pretrained
	$(BIN)/python cli.py evaluate --store $(BUILD) --model pretrained --truth $(BUILD)/truth/world.npz --limit 3000 --out $(BUILD)/report
	$(BIN)/python cli.py model-card --run $(BUILD)/run --report $(BUILD)/report/report.json --store $(BUILD)/store.zarr \
	    --truth $(BUILD)/truth/world.npz --out model/pretrained

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# What attacks the service, ingest and the readers of files: its own tests, and those of `make test` that are of this kind.
ATTACKS := tests/attack \
    tests/measurements/test_encrypted_parquet.py tests/measurements/test_broken_json.py tests/measurements/test_any_measurements.py tests/test_terminal.py \
    tests/pipeline/test_inputs.py tests/pipeline/test_input_stream.py tests/pipeline/test_prepare.py \
    tests/pipeline/ingest/test_ingest_bad_input.py tests/pipeline/ingest/test_pieces.py tests/pipeline/ingest/test_bigquery.py \
    tests/pipeline/split/test_odd_tables.py tests/pipeline/split/test_changed_tables.py \
    tests/stores/test_claims.py tests/stores/test_verify.py \
    tests/model/inference/test_damaged_exports.py tests/model/inference/test_damaged_runs.py \
    tests/model/service/test_connections.py tests/model/service/test_hosts.py tests/model/service/test_openapi.py \
    tests/model/service/test_http.py tests/model/service/test_context_files.py tests/model/service/test_take_away.py

attack: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[attack]'
	$(BIN)/python -m pytest -p tests.attack.limits -m 'attack or not attack' $(ATTACKS) $(ARGS)

# In a new environment outside the repository, so that nothing is imported from the working tree.
wheel-test: setup
	rm -rf build/lib build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	here=$$PWD; elsewhere=$$(mktemp -d); trap 'rm -rf "$$elsewhere"' EXIT; set -e; unset PYTHONPATH; \
	$(PYTHON) -m venv "$$elsewhere/venv"; \
	"$$elsewhere/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    "$$(echo "$$here"/build/wheel/pinglm-*.whl)[train]"; \
	cd "$$elsewhere"; venv/bin/pinglm predict-rtt 193.0.2.1 198.51.101.7 --json

# Minutes, on a SLURM that lives only meanwhile; nothing of it is left even where the time is up.
cluster-test: setup
	$(MAKE) node-test ARGS=
	timeout --kill-after=10 1500 tests/cluster/slurm.sh $(BIN)/python -m pytest -n 0 -p no:cacheprovider \
	    --basetemp=/run/slurm/tests tests/cluster/jobs.py $(ARGS)

# The part of it that needs no SLURM: a Dask cluster of two nodes with addresses of their own.
node-test: setup
	timeout --kill-after=10 1500 tests/cluster/nodes.sh $(BIN)/python -m pytest -n 0 -p no:cacheprovider \
	    --basetemp=/run/nodes/tests tests/cluster/nodes.py $(ARGS)

# What does not depend on JAX, on another version of Python than that of .venv.
TEST_PYTHON ?= python3.13
test-python:
	$(TEST_PYTHON) -m venv build/$(notdir $(TEST_PYTHON))
	build/$(notdir $(TEST_PYTHON))/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    -e '.[prepare,cloud]' pytest pytest-timeout hypothesis matplotlib psutil
	build/$(notdir $(TEST_PYTHON))/bin/python -m pytest -q -p no:cacheprovider tests/stores tests/pipeline/tokenize $(ARGS)

docs: setup
	$(BIN)/mkdocs build --strict --site-dir build/site

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
