# make help lists the targets.
# PYTHON, a version or a path, selects another Python than the first supported one that is installed.
PYTHON ?=
# TORCH=cpu: PyTorch without CUDA, from its own index.
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

# Hospital networks often have their own certificate authority: trust the certificates of the system.
export UV_SYSTEM_CERTS := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test quick coverage servers flink iceberg kustomize senders browser airflow promtool prism-test flink-test soak fuzz bench scale check lock docs picture screenshots clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## create .venv/ and install the locked dependencies and the router; TORCH=cpu: without CUDA

$(INSTALLED): requirements/dev.lock requirements/uv.lock requirements/bootstrap.sh setup.py
	@sh requirements/bootstrap.sh $(VENV) $(PYTHON)
ifeq ($(TORCH),cpu)
	$(BIN)/python docs/image_locks.py requirements/dev.lock >$(VENV)/cpu.lock
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes $(VENV)/cpu.lock requirements/uv.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --index-url $(TORCH_INDEX) -r requirements/torch-cpu.txt
else
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.lock requirements/uv.lock
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

demo: install ## route real DICOM files into demo-lake/
	$(BIN)/dicom-router demo --lake demo-lake

test: install servers flink iceberg kustomize airflow ## run every test, in three processes, of which one mostly waits for engines
	$(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder --durations=20

quick: install servers ## run the tests that take under two minutes together
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -q -m "not (slow or engine or kill or training)"

coverage: install servers flink iceberg kustomize airflow ## run every test and report the lines and branches that none reaches; TESTS=tests
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(or $(TESTS),tests)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

prism-test: install servers ## run the tests on Prism
	$(BIN)/python -m pytest tests/engines/test_prism.py tests/engines/test_prism_stream.py tests/engines/test_forget_stream.py

flink-test: install flink ## run the tests on a Flink cluster
	$(BIN)/python -m pytest -s tests/engines/test_flink.py tests/engines/test_flink_stream.py

servers: ## build the test servers that need Go; tests that need them are skipped without it
	@if command -v go >/dev/null; then $(MAKE) --no-print-directory build/bin/storefake build/bin/pstest build/bin/prism; \
	else echo "no Go on this machine: tests on Prism, object stores and Pub/Sub will be skipped"; fi

build/bin/storefake: $(wildcard tests/servers/storefake/*)
	cd tests/servers/storefake && go build -o ../../../build/bin/storefake .

build/bin/pstest: $(wildcard tests/servers/pstest/*)
	cd tests/servers/pstest && go build -o ../../../build/bin/pstest .

build/bin/prism:
	GOBIN=$(CURDIR)/build/bin go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0

flink: install ## fetch Flink and its Beam runner; tests on Flink are skipped without Java and Maven
	@if command -v java >/dev/null && command -v mvn >/dev/null; \
	then $(MAKE) --no-print-directory build/flink/ready; \
	else echo "no Java or Maven on this machine: tests on Flink will be skipped"; fi

build/flink/ready: tests/servers/flink/pom.xml requirements/flink.lock
	rm -rf build/flink
	$(BIN)/uv pip install --quiet --no-deps --require-hashes --target build/flink/pyflink -r requirements/flink.lock
	mvn -q -B -f tests/servers/flink/pom.xml dependency:copy-dependencies dependency:copy@crd -DoutputDirectory=$(CURDIR)/build/flink/libs -DincludeScope=runtime
	touch $@

iceberg: ## fetch the libraries of a REST catalog (18 MB); tests of Iceberg tables in it are skipped without Java and Maven
	@if command -v java >/dev/null && command -v mvn >/dev/null; \
	then $(MAKE) --no-print-directory build/iceberg/ready; \
	else echo "no Java or Maven on this machine: tests of Iceberg tables in a REST catalog will be skipped"; fi

build/iceberg/ready: tests/servers/iceberg/pom.xml
	rm -rf build/iceberg
	mvn -q -B -f tests/servers/iceberg/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/iceberg -DincludeScope=runtime
	touch $@

kustomize: ## build kustomize where neither it nor kubectl is installed; tests of the Kubernetes templates need one of them
	@if command -v kustomize >/dev/null || command -v kubectl >/dev/null || [ -x build/bin/kustomize ]; then :; \
	elif command -v go >/dev/null; then GOBIN=$(CURDIR)/build/bin go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1; \
	else echo "no Go on this machine: tests of the Kubernetes templates will be skipped"; fi

airflow: build/airflow/ready ## install Airflow in build/airflow; tests of its DAG are skipped without it

build/airflow/ready: requirements/airflow.lock | $(INSTALLED)
	rm -rf build/airflow
	$(BIN)/uv venv --quiet --python $(BIN)/python build/airflow
	$(BIN)/uv pip sync --quiet --python build/airflow/bin/python --require-hashes requirements/airflow.lock
	touch $@

senders: ## install DCMTK, Orthanc and dciodvfy where apt-get and root are available; tests that need them are skipped without them
	@if command -v storescu >/dev/null && command -v Orthanc >/dev/null && command -v dciodvfy >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; \
	then apt-get update -qq && apt-get install -qq --no-install-recommends dcmtk orthanc orthanc-dicomweb dicom3tools >/dev/null; \
	else echo "no apt-get or not root: tests with DCMTK, Orthanc and dciodvfy will be skipped"; fi

browser: ## install Chromium where apt-get and root are available; tests in a browser are skipped without it
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; \
	then apt-get update -qq && apt-get install -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else echo "no apt-get or not root: tests in a browser will be skipped"; fi

promtool: ## fetch promtool, which checks alerting rules, where apt-get is available; its tests are skipped without it
	@if [ -x build/bin/promtool ] || command -v promtool >/dev/null; then :; \
	elif command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; \
	then mkdir -p build/bin build/prometheus && cd build/prometheus && (apt-get download -qq prometheus || (apt-get update -qq && apt-get download -qq prometheus)) 2>/dev/null \
	&& dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x -C ../bin --strip-components=3 ./usr/bin/promtool && rm prometheus_*.deb; \
	else echo "no apt-get on this machine: tests of alerting rules will be skipped"; fi

soak: install ## kill runs at random moments and run again; KILLS=20 OBJECTS=300
	$(BIN)/python -m tests.soak --kills $(or $(KILLS),20) --objects $(or $(OBJECTS),300)

fuzz: install ## fuzz parsing and decoding; SECONDS=600
	mkdir -p build/fuzz
	$(BIN)/python -m tests.fuzz.objects build/fuzz/corpus -max_total_time=$(or $(SECONDS),600) -artifact_prefix=build/fuzz/

bench: install ## compare the router with a lower bound and simpler scripts; IMAGES=8 ROUNDS=3
	$(BIN)/python -m benchmarks.bench --images $(or $(IMAGES),8) --rounds $(or $(ROUNDS),3)

scale: install ## measure cost per object and memory as runs grow; SIZES="1000 10000 50000" ENGINES="in-process flink"
	$(BIN)/python -m benchmarks.scale --sizes $(or $(SIZES),1000 10000 50000) --engines $(or $(ENGINES),in-process flink) --out benchmarks/results/scale.json

check: install ## lint, format, types, import rules, spelling, terminology
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files -z | xargs -0 $(BIN)/codespell
	$(BIN)/python -m docs.terms
	$(BIN)/python -m pytest -q tests/test_imports.py

docs: install ## write generated pages and schemas from the tables in the code
	$(BIN)/python -m docs.generate

picture: install ## write docs/images/decisions.png from decisions of the default model
	$(BIN)/python -m docs.make_picture

screenshots: install browser ## write docs/images/report-*.png from a report on generated images, and review.png
	$(BIN)/python -m docs.make_screenshots
	$(BIN)/python -m tests.review.screenshot

lock: ## resolve the dependencies again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev setup.py -o requirements/dev.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --constraint requirements/dev.lock \
		--extra aws --extra gcp --extra pubsub --extra receive --extra dicomweb --extra sr --extra onnx --extra observability --extra delta --extra iceberg setup.py -o requirements/image.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --excludes requirements/airflow-excluded.txt requirements/airflow.in -o requirements/airflow.lock
	echo apache-flink-libraries==1.16.3 | $(BIN)/uv pip compile --quiet --no-deps --python-version 3.11 --generate-hashes --no-emit-index-url --no-header - -o requirements/flink.lock
	echo uv | $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header - -o requirements/uv.lock

clean: ## remove the environment and the demo's lake
	rm -rf $(VENV) demo-lake build dist *.egg-info
