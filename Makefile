# The two commands of a newcomer are `make run` and `make test`. `make help` lists the rest.
.PHONY: coverage deep help run schedule serve test types mutants bench soak lab docs readme pictures clean lock wheel-test
.DEFAULT_GOAL := help

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(BIN)/python scripts/install.py
# an option of pip that names an index with processor builds, where the common one would bring CUDA
DEEP_INDEX ?=
unexport PYTHONDONTWRITEBYTECODE
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

help:            ## list the targets
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+: +##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/run.ok: requirements/run.txt pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Error: Carnet needs Python 3.11 or newer; $$(python3 --version) is first on the path"; exit 1; }
	@echo "Installing the locked packages into .venv (about a minute and a half, once) ..."
	@test -x $(BIN)/python || python3 -m venv .venv
	@$(INSTALL) -r requirements/run.txt
	@$(PIP) install --no-deps --no-compile --no-build-isolation -e .
	@touch $@

.venv/schedule.ok: .venv/run.ok requirements/schedule.txt
	@echo "Installing Prefect into .venv ..."
	@$(INSTALL) -r requirements/schedule.txt
	@touch $@

.venv/serve.ok: .venv/run.ok requirements/serve.txt
	@echo "Installing the packages of the service into .venv ..."
	@$(INSTALL) -r requirements/serve.txt
	@touch $@

.venv/dev.ok: .venv/run.ok requirements/dev.txt
	@echo "Installing the packages for tests into .venv ..."
	@$(INSTALL) -r requirements/dev.txt
	@touch $@

run: .venv/run.ok  ## do the daily run on the sample market; ARGS="--profile crypto" and the like are passed on
	@$(BIN)/carnet run $(ARGS)

schedule: .venv/schedule.ok ## start the daily run and the other jobs of the settings when they are due; ARGS="--profile crypto" and the like are passed on
	@$(BIN)/carnet schedule $(ARGS)

serve: .venv/serve.ok ## serve API and dashboard on this machine; `carnet users add NAME --role admin` makes the first user
	@$(BIN)/carnet serve $(ARGS)

test: .venv/dev.ok ## everything: style, notebooks, tests, layers; ARGS="-k report" and the like are passed on
	@./scripts/get-chromium
	@./scripts/get-promtool
	@$(BIN)/ruff check --quiet .
	@$(BIN)/python scripts/export.py
	@$(BIN)/python -m pytest -n auto --dist loadgroup --reruns 1 --reruns-delay 2 -raR $(ARGS)

coverage: .venv/dev.ok ## the same tests with the branches of trading/ counted, which takes a fifth longer
	@./scripts/get-chromium
	@$(BIN)/python -m pytest -n auto --dist loadgroup --cov --cov-report=term:skip-covered $(ARGS)
	$(if $(ARGS),,@$(BIN)/python scripts/coverage_floor.py)

types: .venv/dev.ok ## hold every call of the package against the signature it calls
	@$(BIN)/mypy

wheel-test: .venv/dev.ok ## try the built wheel in a fresh environment: run, flows of the schedule, help of every command
	@$(BIN)/python scripts/wheel_test.py

mutants: .venv/dev.ok ## change small things in the modules where money hangs and list what no test notices; ARGS="execution.plan --n 60"
	@$(BIN)/python scripts/mutants.py $(ARGS)

bench: .venv/dev.ok ## measure every figure and write bench/RESULTS.md
	@$(BIN)/python bench/run.py $(ARGS)

soak: .venv/dev.ok ## the long versions of the crash and search tests, and a day on a phone
	@CARNET_LONG=1 $(BIN)/python -m pytest -q tests/test_dashboard.py -k phone_with_a_finger
	@CARNET_LONG=1 $(BIN)/python -m pytest -q tests/test_web_api.py -k crash
	@$(BIN)/python -m pytest -n auto tests/soak $(ARGS)

deep: .venv/dev.ok ## install PyTorch, and run what `make test` had to skip without them
	@$(INSTALL) $(DEEP_INDEX) -r requirements/deep.txt
	@$(BIN)/python -m pytest -q tests/test_forecast_deep.py tests/test_forecast_estimators.py \
		nbs/04_forecast/72_neural.ipynb $(ARGS)

lab: .venv/dev.ok  ## open the notebooks in JupyterLab
	@$(BIN)/carnet lab

docs: .venv/dev.ok ## make the site in _docs/: guides, gallery, reference, every notebook; every link inside is followed
	@$(BIN)/python scripts/docs.py

readme: .venv/dev.ok ## make README.md from nbs/index.ipynb, and the example report
	@$(BIN)/python scripts/readme.py
	@$(BIN)/python scripts/example_report.py

pictures: .venv/dev.ok ## make the pictures of lab, page and report with Chromium; ARGS="lab" makes one
	@./scripts/get-chromium
	@$(BIN)/python scripts/pictures.py $(ARGS)

lock: .venv/dev.ok ## choose new versions for requirements/
	@$(PIP) install uv
	@$(INSTALL) --uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --annotation-style line --upgrade pyproject.toml requirements/build.in -o requirements/run.txt
	@$(INSTALL) --uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --annotation-style line --extra dev --upgrade -c requirements/run.txt pyproject.toml requirements/build.in -o requirements/dev.txt
	@$(INSTALL) --uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --annotation-style line --extra schedule -c requirements/dev.txt pyproject.toml requirements/build.in -o requirements/schedule.txt
	@$(INSTALL) --uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --annotation-style line --extra schedule --extra serve --extra postgres --extra optimizers -c requirements/dev.txt pyproject.toml requirements/build.in -o requirements/serve.txt

clean:           ## remove what was made; keeps reports/ and data/
	rm -rf .venv _docs .pytest_cache .ruff_cache .coverage* build dist *.egg-info
