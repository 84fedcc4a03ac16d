# Every target makes what it needs: a fresh clone with nothing installed but Python 3.11 or newer and make will do.
# PYTHON chooses the interpreter that the environment is made from; VENV where it lies.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
READY := $(VENV)/.ready
IMAGES := $(VENV)/.images
SITE := $(VENV)/.docs
LIBRARIES ?= .venv-libraries
HOSTS ?= .venv-hosts
JOBS ?= 6

.PHONY: demo demo-distributed cnn examples readme docs picture test slow zoo gallery lint format types bench workloads ablation transfer sweep libraries hosts finetuning check clean
.DEFAULT_GOAL := demo

demo: $(READY)  ## train GPT-2 with AdamW, torch's Muon and normc; results in out/demo
	$(BIN)/python -m examples.demo

demo-distributed: $(READY)  ## the demo's model on two CPU processes: DDP, FSDP2 and tensor parallelism
	$(BIN)/python -m examples.distributed

cnn: $(READY) $(IMAGES)  ## the same for a small ResNet on images; results in out/cnn
	$(BIN)/python -m examples.cnn

examples: $(READY)  ## the shortest uses, each run once
	$(BIN)/python -m examples.three_lines

readme: $(READY)  ## put real plans into README.md and docs/reading.md, and the last demo's plot into docs/
	$(BIN)/python -m examples.readme_table

docs: $(SITE)  ## the pages as a site, out/site/index.html; a warning is an error
	$(BIN)/python -m sphinx -q -a -E -W --keep-going -b html docs out/site
	@echo "wrote out/site/index.html"

picture: $(READY)  ## draw docs/architecture.md's picture and table anew from the imports
	$(BIN)/python -m tests.house.picture

test: $(READY)  ## all tests but the slow ones
	$(BIN)/python -m pytest -q -n auto -m "not slow"

slow: $(READY)  ## the slow tests
	$(BIN)/python -m pytest -q -n auto -m slow

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

zoo: $(READY)  ## how many rows of the zoo are right; the table goes to docs/zoo.md
	$(BIN)/python -m tests.zoo --write

gallery: $(READY)  ## plans of models whose users reported wrong blocks, axes or routing; the pages go to docs/gallery
	$(BIN)/python -m benchmarks.gallery

bench: $(READY)  ## the sweep behind the demo's AdamW learning rate (long)
	$(BIN)/python -m benchmarks.tune_demo adamw --lr 2e-3 4e-3 6e-3 8e-3 --full

workloads: $(READY)  ## tune and compare optimizers on small workloads (hours of a GPU, resumable); docs/workloads.*
	$(BIN)/python -m benchmarks.workloads --jobs $(JOBS)
	$(BIN)/python -m benchmarks.workloads --report

ablation: $(READY)  ## what each choice of the default is worth (hours of a GPU, resumable); the table goes to docs/evidence.md
	$(BIN)/python -m benchmarks.workloads.ablation --jobs $(JOBS)
	$(BIN)/python -m benchmarks.workloads.ablation --report

transfer: $(READY)  ## one learning rate for models of many sizes? (hours of a GPU, resumable); docs/transfer-trained*
	$(BIN)/python -m benchmarks.transfer --jobs $(JOBS)
	$(BIN)/python -m benchmarks.transfer --report

libraries: $(LIBRARIES)/.ready  ## plans of models of other libraries (long); results in out/libraries
	$(LIBRARIES)/bin/python -m benchmarks.sweep --libraries --out out/libraries

sweep: $(LIBRARIES)/.ready  ## plans of every architecture of transformers and timm (very long); results in out/sweep
	$(LIBRARIES)/bin/python -m benchmarks.sweep --out out/sweep

hosts: $(HOSTS)/.ready  ## normc inside every training stack, beside the plain loop; the table goes to docs/hosts.md
	$(HOSTS)/bin/python -m benchmarks.hosts --write
	$(HOSTS)/bin/python -m pytest -q tests/integrations

finetuning: $(READY)  ## fine-tune a model that AdamW trained, fully and by LoRA; the table goes to docs/finetuning.md
	$(BIN)/python -m benchmarks.finetuning --write

check: lint types test  ## what a change must pass

clean:  ## remove what the targets above wrote, the environment excepted
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing normc and its tools into $(VENV) (the first time takes some minutes)"
	$(INSTALL) --editable ".[dev]"
	@touch $@

# torchaudio's compiled part is for CUDA and fails to load; without it torchaudio imports.
$(LIBRARIES)/.ready: pyproject.toml constraints.txt benchmarks/sweep/libraries.txt
	test -x $(LIBRARIES)/bin/python || $(PYTHON) -m venv $(LIBRARIES)
	$(LIBRARIES)/bin/python -m pip install -qq --constraint constraints.txt --editable ".[demo]"
	$(LIBRARIES)/bin/python -m pip install -qq --no-deps --requirement benchmarks/sweep/libraries.txt
	rm -f $(LIBRARIES)/lib/python3*/site-packages/torchaudio/lib/*.so
	@touch $@

# PyPI's torchvision is a CUDA build, as above; benchmarks/sweep/vision.py makes it importable.
$(HOSTS)/.ready: pyproject.toml constraints.txt
	test -x $(HOSTS)/bin/python || $(PYTHON) -m venv $(HOSTS)
	$(HOSTS)/bin/python -m pip install -qq --constraint constraints.txt --editable ".[test]"
	$(HOSTS)/bin/python -m pip install -qq --no-deps --constraint constraints.txt timm torchvision
	@touch $@

$(SITE): $(READY)
	$(INSTALL) --editable ".[docs]"
	@touch $@

$(IMAGES): $(READY)
	test -d /usr/share/datasets/fashion-mnist || $(INSTALL) --editable ".[images]"
	@touch $@
