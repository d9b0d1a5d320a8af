# Every target does the set-up that it needs, once. PYTHON=/path/to/python3 picks the Python of a new .venv,
# ARGS="..." is passed on to the command: make demo ARGS="train.epochs=2", make test ARGS="-k loss".

python := .venv/bin/python
export PYTHON
# Otherwise each of the tests' hundred processes compiles the project anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs docs-check gpu-check clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s  %s\n", $$1, $$2 }' Makefile

setup:  ## create .venv with the pinned packages, FFCV where its libraries are, and DALI
	@sh tools/setup.sh

demo: setup  ## draw a small dataset, learn from it without labels, print how well that went
	@$(python) tools/demo.py $(ARGS)

test: setup  ## run the tests
	@$(python) -m pytest -q -n 2 --dist worksteal $(ARGS)

lint: setup  ## check the style, and which room imports from which
	@$(python) -m ruff check .
	@$(dir $(python))lint-imports --no-logo

docs: setup  ## build docs/ as a site, build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict --quiet $(ARGS)
	@echo build/site/index.html

docs-check: setup  ## check and run the commands and examples of README.md and docs/
	@$(python) -m pytest -q tests/test_docs.py tests/test_docs_run.py $(ARGS)

gpu-check: setup  ## the first minutes on a GPU, at most eight: tests, crops, training, memory; one page
	@$(python) tools/bench.py gpu $(ARGS)

clean:  ## remove .venv and caches; data and runs stay
	rm -rf .venv .setup build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
