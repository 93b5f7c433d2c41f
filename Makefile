# make demo            set up, find the lesions of a synthetic CT, show the report
# make demo CT=path    the same on a CT of your own: DICOM folder, .nrrd, .nii.gz, .mha, DeepLesion sub-volume folder
# make test            set up, run the tests
# make lint            check style
# make types           check types
# make coverage        run the tests, and print which lines they reach
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo/found
CT ?=

BIN = $(VENV)/bin
PHANTOM = demo/ct

.PHONY: demo test coverage lint types clean

demo: $(VENV)/ready
ifeq ($(CT),)
	test -d $(PHANTOM) || $(BIN)/python -m train.phantom --format nrrd --region chest --patients 1 --seed 3 \
		--interval-mm 2.5 --lesions-per-patient 6 --labels balanced --out $(PHANTOM)
	$(BIN)/lesion-detector detect $(PHANTOM)/*.nrrd --out $(OUT)
else
	$(BIN)/lesion-detector detect "$(CT)" --out "$(OUT)"
endif

test: $(VENV)/ready
	$(BIN)/python -m pytest

coverage: $(VENV)/ready
	$(BIN)/python -m pytest --cov --cov-report term:skip-covered

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; set one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
