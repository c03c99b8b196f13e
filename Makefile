# SPDX-License-Identifier: GPL-2.0-or-later
# On a fresh Debian 12 machine, as root, `make demo` and `make test` are all that is needed.

VENV := .venv
BIN := $(VENV)/bin
export ELIVEPATCH_CACHE_DIR ?= /var/cache/elivepatch

# Tests wait for disks, servers and guests, so there are more pytest workers than processors. The longest files come
# first, in the order of tests/conftest.py.
BESIDE := --dist loadfile --no-loadscope-reorder

# OpenRC reads variables that its scripts only set (SC2034); the trial's init has a function `enable` (SC3044) and prints
# the word `done` (SC1010).
NOT_IN_SCRIPTS := SC2034,SC3044,SC1010
SCRIPTS := .ci/run packaging/install packaging/install-packages packaging/lane packaging/pin-requirements packaging/setup \
	packaging/openrc/elivepatch-boot packaging/openrc/elivepatch-server src/elivepatch/trial/init.sh
# These run in busybox's shell, which has `local` and `ulimit -v`, and use variables of init.sh.
GUEST_SCRIPTS := $(wildcard src/elivepatch/trial/*/*.sh src/elivepatch/trial/workload/programs/*.sh)
NOT_IN_GUEST_SCRIPTS := $(NOT_IN_SCRIPTS),SC1007,SC2154,SC3043,SC3045

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit coverage coverage-floor scale integration kernel extended whole-kernels bench equal chaos load corpus kernels every-object verdicts mutants requirements docs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-22s %s\n", $$1, $$2}'

setup: $(VENV)/ready ## install the system packages and the virtual environment

$(VENV)/ready: requirements/dev.txt packaging/debian-packages.txt packaging/setup pyproject.toml
	packaging/setup $(VENV)
	touch $@

$(VENV)/testable: $(VENV)/ready packaging/debian-packages-tests.txt packaging/install-packages
	packaging/install-packages packaging/debian-packages-tests.txt
	touch $@

demo: $(VENV)/ready ## build livepatches for stock kernels and show in a VM that they work
	$(BIN)/python demo/demo.py

test: lint unit scale integration kernel ## run every check and test (the last lane builds and boots kernels)

lint: $(VENV)/testable ## check style, English, types and the direction of imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/plain_english.py
	$(BIN)/codespell src tests bench demo docs packaging Makefile *.md
	shellcheck --severity=warning --shell=sh --exclude=$(NOT_IN_SCRIPTS) $(SCRIPTS)
	shellcheck --severity=warning --shell=sh --exclude=$(NOT_IN_GUEST_SCRIPTS) $(GUEST_SCRIPTS)

# On Python 3.11 the tracer takes 38 % more processor time, so only the gate measures; COVERAGE=yes measures by hand.
unit: $(VENV)/testable ## run the tests that need only the checkout (COVERAGE=yes measures them and holds the floor)
ifdef COVERAGE
	rm -rf .coverage && mkdir .coverage
	MEASURE=coverage packaging/lane $(VENV) tests/unit -n 5 --dist worksteal
	$(BIN)/coverage combine -q
	@printf 'lines covered by unit tests, in percent (floor in pyproject.toml): '; $(BIN)/coverage report --format=total
else
	packaging/lane $(VENV) tests/unit -n 5 --dist worksteal
endif

coverage: ## list the lines that the last `make unit COVERAGE=yes` did not run
	$(BIN)/coverage report --skip-covered --show-missing --sort=cover

coverage-floor: ## store the last measured coverage, less 0.3 for chance, as the floor
	total=$$($(BIN)/coverage report --fail-under=0 --format=total) && \
	floor=$$(echo "$$total" | awk '{printf "%.1f", $$1 - 0.3}') && \
	sed -i "s/^fail_under = [0-9.]*/fail_under = $$floor/" pyproject.toml

scale: $(VENV)/testable ## run the tests with 100,000 jobs, 2,000 hosts, 50 kernels, 1,000 patches live on one host
	packaging/lane $(VENV) tests/scale -n 2 $(BESIDE) --durations=5

integration: $(VENV)/testable ## run the tests with real servers on loopback
	packaging/lane $(VENV) tests/integration -m "not extended" -n 5 $(BESIDE)

kernel: $(VENV)/testable ## run the tests that build livepatches and boot kernels
	packaging/lane $(VENV) tests/kernel -m "not extended" -n 4 $(BESIDE) --durations=10

extended: $(VENV)/testable ## run the rest of both lanes: further kernels and cases, comparison with kpatch-build, more hosts in guests
	packaging/lane $(VENV) tests/kernel tests/integration -m "extended and not whole_kernel" -n 2 $(BESIDE) --durations=10

whole-kernels: $(VENV)/testable ## run the tests that build or fetch a whole kernel for themselves; neither `make test` nor CI does
	packaging/lane $(VENV) tests/kernel -m whole_kernel -n 1 $(BESIDE) --durations=10

bench: $(VENV)/ready ## measure the time of each stage of a build, into bench/results.json
	$(BIN)/python bench/bench.py
	$(BIN)/python bench/plot.py

equal: $(VENV)/ready ## compare the livepatches of the builders objects and reference, into bench/equal.json
	$(BIN)/python bench/equal.py
	$(BIN)/python bench/second.py

chaos: $(VENV)/testable ## kill, freeze and restart servers and workers, into bench/chaos.json
	$(BIN)/python bench/chaos.py

load: $(VENV)/testable ## send the server many requests at once while it builds, into bench/load.json
	$(BIN)/python bench/load.py

corpus: $(VENV)/ready ## build and try a folder of real fixes (DIR=...), into bench/corpus.json
	$(BIN)/python bench/corpus.py $(DIR)

kernels: $(VENV)/ready ## ask a server for each stock kernel, build and try two livepatches for it (OPTIONS=...), into bench/kernels.json
	$(BIN)/python bench/kernels.py $(OPTIONS)

every-object: $(VENV)/ready ## compile every object of stock kernels and compare it with the shipped one (OPTIONS=...), into bench/objects.json
	$(BIN)/python bench/every_object.py $(OPTIONS)

mutants: $(VENV)/ready ## change real sources at random, build, and prove that no change is lost (OPTIONS=...), into bench/mutants.json
	$(BIN)/python bench/mutants.py $(OPTIONS)

verdicts: $(VENV)/ready ## compare the verdicts of checks with the results of builds (DIR=...), into bench/verdicts.json
	$(BIN)/python bench/verdicts.py $(DIR)

docs: $(VENV)/ready ## write the generated pages of docs/
	$(BIN)/python docs/generate.py

requirements: ## pin all requirements to their newest versions (needs uv)
	packaging/pin-requirements

clean: ## remove the files that the targets made in the checkout
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage demo/output demo/report.json
