# Everything a developer or user calls. Logic is in scripts/ and in the tools; set PYTHON to use another interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
ONLY ?=
SHORT ?=
export PYTHON
# Some hundred processes start in a run of the tests: none shall compile the program anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup tools broker demo check test days bench torture saboteurs mutations lock image clean
setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh install

# Programs that only the tests need: database servers, a browser, fault tools. Cheap when they are there.
tools: $(STAMP)
	@bash scripts/setup.sh tools

# The broker first: what only an administrator can install is told before some minutes of downloading.
broker:
	@bash scripts/setup.sh broker

demo: broker $(STAMP)
	@$(BIN)/fieldloom demo

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q --durations=0 tests/unit/test_arrows.py

# In two parts: what measures times of real processes, one by one, then the rest side by side, two for each core of the smallest
# machine, since most of them wait for processes. In the order of the files: the long ones are not last.
test: tools
	$(BIN)/pytest tests -m "alone and not (torture or days)"
	$(BIN)/pytest tests -n 4 --dist loadfile --no-loadscope-reorder -m "not (torture or alone or days)"

# Worst faults: live over MQTT, one by one, then whole days in the lab: plants alone, every kind under its controller in winter and
# summer, recordings through the service.
days: tools
	$(BIN)/pytest tests -m "days and alone and not torture"
	$(BIN)/pytest tests -n 3 --dist worksteal -m "days and not alone"

torture: tools
	$(BIN)/pytest -m torture --timeout 3600 tests

saboteurs: tools
	$(BIN)/python tests/saboteurs.py $(if $(SHORT),--short)

# Every figure of every shipped rule, changed: a scenario has to notice.
mutations: $(STAMP)
	$(BIN)/fieldloom rules test --mutations

bench: tools
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(SHORT),--short)

lock:
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--python-version 3.11 -o requirements.lock

image:
	docker build -t fieldloom .

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache
