# make demo   convert the embedded network and show that it is still the same (core dependencies only)
# make test   every test, with the frameworks
# make sweep  every planted change, recorded list and file; `make test` takes a fixed part of them
# make owners the tests against software too heavy for every run
# make check  ruff and mypy
# make fuzz   20,000 mutants of every container, into fuzz.json
# make bench  the measurements behind docs/benchmarks.md and README's table, 25 minutes on two quiet cores
# make lock   renew what .github/locks pins by digest
PYTHON ?= python3
.PHONY: demo test sweep owners check fuzz bench lock clean

demo: .venv-core/ready
	.venv-core/bin/densenet-port demo

test: .venv/ready
	.venv/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

sweep: .venv/ready
	DENSENET_PORT_SWEEP=whole .venv/bin/python -m pytest -n 2 --dist worksteal $$(grep -rl support.sweep tests --include='test_*.py') $(ARGS)

owners: .venv/ready
	.venv/bin/pip install --quiet --editable '.[owners]'
	.venv/bin/python -m pytest -m owners $(ARGS)

check: .venv/ready
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

fuzz: .venv/ready
	.venv/bin/python -m tests.hostile.fuzz $(ARGS)

bench: .venv/ready
	.venv/bin/python -m benchmarks $(ARGS)

.venv-core/ready: pyproject.toml
	$(PYTHON) -m venv .venv-core
	.venv-core/bin/pip install --quiet --editable .
	touch $@

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[keras,jax,torch,test]'
	touch $@

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --upgrade pip-tools
	cd .github/locks && for name in build core sbom; do \
	  ../../.venv-lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-annotate --no-header \
	    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file $$name.txt \
	    $$(test $$name = core && echo ../../pyproject.toml || echo $$name.in) || exit 1; done

clean:
	rm -rf .venv .venv-core .venv-lock
