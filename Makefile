# make demo   set up, then train and predict on the embedded tiny model (CPU, a few minutes)
# make test   set up, then run the tests
PYTHON ?= python3
BIN := .venv/bin
TEST_PROCESSES ?= 2
SUPPORTED := 'import sys; v = sys.version_info[:2]; v in ((3, 11), (3, 12), (3, 13)) or sys.exit("Python 3.11, 3.12 or 3.13 is needed, but this is %d.%d. Name another one: make setup PYTHON=python3.11" % v)'
export HF_HUB_OFFLINE ?= 1
export OMP_NUM_THREADS ?= 2

.PHONY: setup demo test quick lint newest bench clean

setup: .venv/ready

# One pip call for everything with wheels; DeepSpeed is published as source only and needs torch when it is built.
# What pip says goes into .venv/setup.log; its end is shown when it fails.
PIP = $(BIN)/python -m pip install --disable-pip-version-check $(1) >> .venv/setup.log 2>&1 || { tail -n 40 .venv/setup.log; exit 1; }
.venv/ready: requirements.lock requirements-deepspeed.lock pyproject.toml
	@python=$(BIN)/python; test -x $$python || python=$(PYTHON); $$python -c $(SUPPORTED)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setup 1/3: packages, 2.5 GB to download, 6 GB on the disk. 3 to 15 minutes; what pip does: tail -f .venv/setup.log"
	@$(call PIP,-r requirements.lock)
	@echo "setup 2/3: DeepSpeed is built, a minute"
	@export DS_BUILD_OPS=0; $(call PIP,--no-deps --no-build-isolation -r requirements-deepspeed.lock)
	@echo "setup 3/3: this project"
	@$(call PIP,--no-deps --no-build-isolation --editable .)
	@touch $@

# Threads that wait by turning in circles cost other programs their cores, and the demo nine tenths of its speed.
# Quiet: lines of the steps and warnings. What libraries tell of themselves comes back with LLAMAFACTORY_VERBOSITY=INFO.
demo: export OMP_WAIT_POLICY ?= PASSIVE
demo: export LLAMAFACTORY_VERBOSITY ?= WARN
demo: export HF_HUB_DISABLE_PROGRESS_BARS ?= 1
demo: export HF_DATASETS_DISABLE_PROGRESS_BARS ?= 1
demo: export DS_ACCELERATOR ?= cpu
demo: export PYTHONWARNINGS ?= ignore:Model has
demo: setup
	$(BIN)/lmf-chatts init-base --tiny demo_output/base --overwrite
	PATH="$(CURDIR)/$(BIN):$$PATH" llamafactory-cli train examples/chatts_demo.yaml > demo_output/train.log
	$(BIN)/python examples/predict_demo.py demo_output/base demo_output/adapter
	@echo "adapter     demo_output/adapter"
	@echo "loss curve  demo_output/adapter/training_loss.png"
	@echo "first row   demo_output/train.log, as the model reads it"

test: export OMP_NUM_THREADS = 1
test: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

quick: setup
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The names that we rely on, in the newest LLaMA-Factory and transformers that pip finds; skipped without network.
newest: setup
	$(BIN)/python .ci/newest

bench: setup
	$(BIN)/python benchmarks/train_throughput.py --shape tiny

clean:
	rm -rf .venv demo_output bench_work bench_results .pytest_cache .ruff_cache .mypy_cache .hypothesis
