# Two commands need nothing but Python >= 3.11: `make demo` runs the whole benchmark small, `make test` checks it.
# The demo takes minutes; `synrep run smoke` and `synrep run main-small-scenes-1x` are the long comparisons.
# `make install` only installs, `make quick` runs the fast tests, for the time between two edits.
PYTHON ?= python3
BIN = .venv/bin
DEMO = runs/demo
PYTEST = $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.PHONY: install demo test quick lint tables-check docs pictures speed clean

install: .venv/installed
	@echo "installed; next: source .venv/bin/activate, then synrep"

demo: .venv/installed
	@echo "step 1 of 3: draw and render the images"
	$(BIN)/synrep data build toy-200 scenes-evaluation
	@echo "step 2 of 3: train and evaluate"
	$(BIN)/synrep run demo --out $(DEMO)
	@echo "step 3 of 3: tables and leaderboard"
	$(BIN)/synrep site --records $(DEMO)/records --out $(DEMO)/site >/dev/null
	@$(BIN)/synrep tables --records $(DEMO)/records --out $(DEMO)/tables
	@echo "plot: $(DEMO)/tables/demo/linear_probe.synclr.png; leaderboard: $(DEMO)/site/index.html"

test: lint tables-check docs
	$(PYTEST)

quick: .venv/installed
	$(BIN)/ruff check .
	$(PYTEST) -m "not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables-check: .venv/installed
	$(BIN)/synrep validate results
	$(BIN)/synrep tables --check

# The site needs no network; pages open from disk, but browsers let its search work only on pages of a server.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open build/docs/index.html; with search: $(BIN)/python -m http.server --directory build/docs, port 8000"

.venv/installed: pyproject.toml constraints.txt
	@echo "installing into .venv, without output: about 6 GB with the CUDA build of PyTorch, about five minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

pictures: .venv/installed
	$(BIN)/python -m tests.pictures

speed: .venv/installed
	$(BIN)/python -m tests.speed.cpu
	$(BIN)/python -m tests.speed.reports

clean:
	rm -rf runs data
