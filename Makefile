# make demo   set up, then train and predict on the embedded tiny model (CPU, a few minutes)
# make test   set up, then run the tests
PYTHON ?= python3
BIN := .venv/bin
TEST_PROCESSES ?= 2
export HF_HUB_OFFLINE ?= 1
export OMP_NUM_THREADS ?= 2

.PHONY: setup demo test quick lint bench launchers clean

setup: .venv/ready

# One pip call for everything with wheels; DeepSpeed is published as source only and needs torch when it is built.
.venv/ready: requirements.lock requirements-deepspeed.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -r requirements-deepspeed.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/lmf-chatts init-base --tiny demo_output/base --overwrite
	PATH="$(CURDIR)/$(BIN):$$PATH" llamafactory-cli train examples/chatts_demo.yaml
	$(BIN)/python examples/predict_demo.py demo_output/base demo_output/adapter
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
