# make demo   set up, then train and predict on the embedded tiny model (CPU, a few minutes)
# make test   set up, then run the tests
PYTHON ?= python3
BIN := .venv/bin
TEST_PROCESSES ?= 2
SUPPORTED := 'import sys; v = sys.version_info[:2]; v in ((3, 11), (3, 12), (3, 13)) or sys.exit("Python 3.11, 3.12 or 3.13 is needed, but this is %d.%d. Name another one: make setup PYTHON=python3.11" % v)'
export HF_HUB_OFFLINE ?= 1
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE  # waiting threads sleep: on busy cores spinning ones cost more than the work

.PHONY: setup demo test quick lint bench launchers clean

setup: .venv/ready

# One pip call for everything with wheels; DeepSpeed is published as source only and needs torch when it is built.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
.venv/ready: requirements.lock requirements-deepspeed.lock pyproject.toml
	@python=$(BIN)/python; test -x $$python || python=$(PYTHON); $$python -c $(SUPPORTED)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setup 1/3: the packages of requirements.lock. About 3 GB to download, 7 GB in .venv; 3 to 15 minutes without a word"
	@$(PIP) -r requirements.lock
	@echo "setup 2/3: DeepSpeed is built, about a minute"
	@DS_BUILD_OPS=0 $(PIP) --no-deps --no-build-isolation -r requirements-deepspeed.lock
	@echo "setup 3/3: this project"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: export LLAMAFACTORY_VERBOSITY ?= WARN
demo: export TRANSFORMERS_VERBOSITY ?= error
demo: setup
	@echo "demo 1/3: a tiny random base"
	@$(BIN)/lmf-chatts init-base --tiny demo_output/base --overwrite
	@echo "demo 2/3: training, llamafactory-cli train examples/chatts_demo.yaml (one to two minutes on 2 cores)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" llamafactory-cli train examples/chatts_demo.yaml
	@echo "demo 3/3: one prediction"
	@$(BIN)/python examples/predict_demo.py demo_output/base demo_output/adapter
	@echo "adapter     demo_output/adapter"
	@echo "loss curve  demo_output/adapter/training_loss.png"

test: export OMP_NUM_THREADS = 1
test: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile

quick: setup
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: setup
	$(BIN)/python benchmarks/train_throughput.py --shape tiny

# After a change of shell/launchers.yaml or shell/parts: the launchers and their recipes are written from them.
launchers: setup
	$(BIN)/python shell/generate.py

clean:
	rm -rf .venv demo_output bench_work bench_results .pytest_cache .ruff_cache
