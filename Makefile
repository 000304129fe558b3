.PHONY: test
PY := .venv/bin/python

.venv/ok: pyproject.toml
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install -q -e '.[dev]'
	touch $@

test: .venv/ok
	.venv/bin/nbdev-export
	.venv/bin/nbdev-test
	$(PY) -m pytest -q tests
