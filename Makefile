# Every target makes .venv by itself where it needs it. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON) 2>/dev/null),)
PYTHON := python3
endif
PY := .venv/bin/python
PYTEST := $(PY) -m pytest -q
# A folder of wheels to prefer over the registry's: torch for the CPU is 190 MB there instead of 5 GB.
WHEELS ?= $(wildcard ../shared/wheels)
PIP := $(PY) -m pip --disable-pip-version-check install --quiet $(if $(WHEELS),--find-links $(WHEELS))
# Those that are merely there are for the CPU; those that were asked for serve both targets.
IMAGE_WHEELS = $(if $(filter cpu,$(TARGET))$(filter-out file,$(origin WHEELS)),$(WHEELS))
OUT ?= out/sample
CLUSTER := PYTHONPATH=tests/kind $(PY) -m cluster
KIND_TESTS ?= tests/kind
export WHEELS

.DEFAULT_GOAL := help

.PHONY: help
help: ## Describe every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml constraints.txt
	@echo "setting up .venv (once; $(if $(WHEELS),torch from $(WHEELS),torch from the registry))"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	@$(PYTHON) -m venv .venv
	@$(PIP) 'pip>=23.1' # an older one cannot build seqeval
	@$(PIP) -c constraints.txt -e '.[trainer,deepspeed,quantization,trackers,sample,dev,docs]'
	@touch $@

.PHONY: venv
venv: .venv/ready ## Set up the Python environment in .venv

.PHONY: run
run: .venv/ready ## Fine-tune the sample: a real encoder on real text, two processes on the CPU
	@.venv/bin/distrain train examples/sample.yaml --processes 2 --output_dir $(OUT) --overwrite

.PHONY: test
test: .venv/ready ## Run the tests; where Go is there and no Helm, builds Helm for the chart's tests first
	@command -v helm >/dev/null || ! command -v go >/dev/null || $(CLUSTER) build helm >/dev/null || true
	@$(PYTEST) -n 3 --dist loadfile --durations=10 $(if $(COVERAGE),--cov --cov-report=term)

.PHONY: coverage
coverage: ## Run the tests, measure what those of one process cover of the trainer, and fail below the floor
	@$(MAKE) --no-print-directory test COVERAGE=1

.PHONY: test-matrix
test-matrix: .venv/ready ## Run what takes long: every strategy on 1, 2 and 4 processes, every way to die; SHORT=1 as CI does (MINUTES), MATRIX=expression chooses
	@$(PYTEST) -m 'matrix$(if $(SHORT), and not long)' -n 2 --dist loadfile --durations=10 tests/trainer $(if $(MATRIX),-k '$(MATRIX)')

.venv/sagemaker: tests/trainer/launch/sagemaker-sdk.txt .venv/ready
	@$(PIP) --no-deps --target $@ --upgrade -r $< && touch $@

.PHONY: examples-test
examples-test: .venv/sagemaker ## Run every example and notebook from beginning to end (10 minutes)
	@$(PYTEST) -m examples -n 2 --dist loadfile --durations=5 tests/trainer tests/project

.PHONY: gpu-test
gpu-test: ## Run on a GPU: the promise, every strategy killed and resumed, hangs, memory and speed (about 10 minutes)
	@$(PYTHON) tests/gpu/support/here.py
	@$(MAKE) --no-print-directory .venv/ready
	@$(PY) tests/gpu/support/here.py torch
	@rm -f _artifacts/gpu.md
	@$(PYTEST) -m gpu -n 4 --durations=10 tests/gpu/test_gpu_promise.py tests/gpu/test_gpu_hangs.py; code=$$?; \
	$(PYTEST) -m gpu tests/gpu/test_gpu_costs.py; costs=$$?; cat _artifacts/gpu.md; exit $$((code ? code : costs))

.PHONY: notebooks
notebooks: .venv/ready ## Execute the notebooks and keep what they show
	@$(PY) examples/notebooks/execute.py

.PHONY: fault-test
fault-test: .venv/ready ## Runs of two nodes under random faults, by seed: MINUTES=5 SEED=1; each must end the same
	@MINUTES=$(or $(MINUTES),5) SEED=$(or $(SEED),1) $(PYTEST) tests/trainer/launch/random_faults.py

.PHONY: helm
helm: .venv/ready ## Build Helm for the chart's tests, as make test does (once; needs Go)
	@$(CLUSTER) build helm

.PHONY: image
image: ## Build the image with docker or podman: TARGET=cuda (default) or cpu, IMAGE=name:tag
	@WHEELS='$(IMAGE_WHEELS)' image/build

.PHONY: image-test
image-test: .venv/ready ## Test the image for the CPU with docker or podman
	@$(PYTEST) tests/image

.PHONY: kind-up
kind-up: .venv/ready ## Make a real cluster of three nodes here, or see that it is healthy (as root)
	@$(CLUSTER) up

.PHONY: kind-test
kind-test: .venv/ready ## Run the chart and the image on that cluster; KEEP=1 keeps it, KIND_TESTS=... runs some
	@$(PYTEST) $(KIND_TESTS)

.PHONY: chaos-test
chaos-test: .venv/ready ## Everything that can die on that cluster, and what it cost: CASE=name runs some (hours)
	@$(PYTEST) tests/kind/chaos.py $(if $(CASE),-k '$(CASE)'); code=$$?; cat _artifacts/chaos.md; exit $$code

.PHONY: soak
soak: .venv/ready ## Random faults on that cluster, by seed: MINUTES=60 SEED=1; each run must end the same
	@MINUTES=$(or $(MINUTES),60) SEED=$(or $(SEED),1) $(PYTEST) tests/kind/soak.py; code=$$?; cat _artifacts/soak.md; exit $$code

.PHONY: scale-test
scale-test: .venv/ready ## 8,192 GPUs on 1,024 pretended nodes of that cluster: seconds and sizes (up to 20 minutes)
	@timeout 1200 $(PYTEST) tests/kind/scale.py

.PHONY: release-test
release-test: .venv/ready ## All that CI has no time for: combinations, causes, add-ons, faults; some damage the cluster (hours)
	@$(MAKE) --no-print-directory test-matrix
	@$(PYTEST) -m matrix tests/k8s tests/project
	@$(MAKE) --no-print-directory examples-test
	@$(MAKE) --no-print-directory image-test
	@$(MAKE) --no-print-directory kind-test KEEP=1
	@$(PYTEST) tests/kind/causes.py
	@$(PYTEST) tests/kind/damage.py
	@$(MAKE) --no-print-directory chaos-test

.PHONY: kind-down
kind-down: .venv/ready ## Remove the cluster; what was built stays in the cache
	@$(CLUSTER) down

.PHONY: lint
lint: .venv/ready ## Check style, types and imports
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
	@.venv/bin/lint-imports

.PHONY: bench
bench: .venv/ready ## Measure: distrain beside a bare loop and Trainer, 1, 2, 4 processes, and what trackers add
	@$(PY) benchmarks/trainer.py && $(PY) benchmarks/overhead.py && $(PY) benchmarks/scaling.py && $(PY) benchmarks/trackers.py

.PHONY: docs
docs: .venv/ready ## Write the reference and the chart's schema anew, and the site of all documents to _site
	@$(PY) docs/settings.py docs/settings.md && $(PY) docs/reference.py docs && $(PY) docs/architecture.py docs/architecture.svg
	@$(PY) charts/schema.py
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "the site is _site/index.html; to search it: $(PY) -m http.server -d _site"

.PHONY: package
package: .venv/ready ## Make what a release is, of the newest commit: wheel, sdist, chart, bill of materials, in dist
	@PY=$(PY) .ci/package

.PHONY: constraints
constraints: .venv/ready ## Write down the versions that are installed
	@{ head -1 constraints.txt; $(PY) -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.new
	@mv constraints.new constraints.txt

.PHONY: clean
clean: ## Remove .venv and what runs and tests left here
	@rm -rf .venv out runs build dist _site *.egg-info trainer/*.egg-info .pytest_cache .coverage .hypothesis .mypy_cache .ruff_cache
