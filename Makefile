# Two commands for a stranger:  make demo   make test        They install what is missing with apt-get. With NO_INSTALL=1 they only say what it is.
# Plain `make` builds and installs nothing: where a package is missing it prints the line that installs it.
BITS  ?= 2
TEXT  ?= demo/held-out.txt
MODEL ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
JOBS  ?= $(shell nproc)

.PHONY: all deps check-deps demo test test-asan test-tsan test-model test-llama model install clean

all: build/release/kronq

deps:
	@scripts/install_dependencies.sh
check-deps:
	@NO_INSTALL=1 scripts/install_dependencies.sh

build/release/kronq: check-deps
	@cmake --preset release > build.log 2>&1 || (cat build.log; rm -f build.log; exit 1)
	@rm -f build.log
	@cmake --build --preset release -j $(JOBS)

model: $(MODEL)
models/SmolLM2-135M-Instruct.Q4_1.gguf:
	@scripts/fetch_model.sh $@

demo: deps
	@$(MAKE) --no-print-directory build/release/kronq $(MODEL)
	@scripts/demo.sh build/release/kronq $(MODEL) $(BITS) $(TEXT)

# The whole suite, plain and under AddressSanitizer and UndefinedBehaviorSanitizer. Tests of the real model say SKIP without `make model`.
test: deps
	@scripts/run_tests.sh release
	@scripts/run_tests.sh asan

test-tsan: deps
	@scripts/run_tests.sh tsan

test-model: $(MODEL) deps
	@scripts/run_tests.sh release

# Beside stock llama.cpp, which is built for it (ten minutes and more): CALIB=c4.txt HELD_OUT=wiki.txt make test-llama [STAGES="imatrix tiny"]. Hours; see the script.
test-llama: build/release/kronq $(MODEL)
	@MODEL=$(MODEL) scripts/test_llama.sh $(STAGES)

install: build/release/kronq
	cmake --install build/release

clean:
	rm -rf build
