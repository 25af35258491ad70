# Every target sets up .venv from nothing; it is made anew when pyproject.toml changes.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
PY    := .venv/bin/python
STAMP := .venv/stamp-test
TREE  := build/tree/faltung

.PHONY: test lint sweep guarded operations demo gallery bench clean

test: lint
	$(PY) -m pytest -q -n 2 --dist worksteal

lint: $(STAMP)
	$(PY) -m ruff check .
	@# The stages are installed below faltung/ but stand beside it, so mypy is shown a tree of links.
	@rm -rf $(TREE) && mkdir -p $(TREE)
	@ln -s $(addprefix $(CURDIR)/,$(wildcard faltung/*) graph codegen runtime) $(TREE)/
	MYPYPATH=build/tree $(PY) -m mypy -p faltung -p bench

# COUNT random configurations of all ops against NumPy, through two derivatives and exact arithmetic.
COUNT ?= 2500
sweep: $(STAMP)
	$(PY) -m tests.sweep --count $(COUNT)

# The same between pages that nobody may touch, on memory full of NaN.
guarded: $(STAMP)
	$(PY) -m tests.sweep --count $(COUNT) --guarded

# docs/operations.md, with EACH configurations of every operation.
EACH ?= 10
operations: $(STAMP)
	$(PY) -m docs.operations --count $(EACH)

demo: $(STAMP)
	$(PY) -m faltung demo

# The pictures of docs/gallery.md, or those of NAMES; some examples train for minutes.
gallery: .venv/stamp-examples
	$(PY) examples/gallery.py $(NAMES)

bench: .venv/stamp-bench
	$(PY) -m bench training
	$(PY) -m bench startup

$(STAMP): pyproject.toml
	$(if $(PYTHON),,$(error Python 3.11 or newer is needed: none of python3.13, python3.12, python3.11, python3 is))
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --editable ".[demo,test]"
	touch $@

.venv/stamp-examples: $(STAMP)
	$(PY) -m pip install --quiet --editable ".[examples]"
	touch $@

.venv/stamp-bench: $(STAMP)
	$(PY) -m pip install --quiet --editable ".[bench]"
	touch $@

clean:
	rm -rf .venv build dist demo-output *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
