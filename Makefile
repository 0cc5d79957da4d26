# make train   set up .venv and train on the built-in world (SV-SFT, ASV-SFT, IBPO, evaluation)
# make test    set up .venv and run the tests
PYTHON ?= python3
VENV := .venv

.PHONY: train controls test clean

train: $(VENV)/train.done
	$(VENV)/bin/python train.py

# the two controls of the README's table: the same training with other accepted responses
controls: $(VENV)/train.done
	$(VENV)/bin/python train.py --stage ibpo --method random
	$(VENV)/bin/python train.py --stage ibpo --method cgpo
	$(VENV)/bin/python eval.py checkpoints/base runs/builtin/sv-sft runs/builtin/asv-sft runs/builtin/cgpo \
		runs/builtin/random-50 runs/builtin/ibpo-50 --problems 5000 --out runs/builtin/eval

test: $(VENV)/test.done
	$(VENV)/bin/python -m pytest

# a new requirements file installs again
$(VENV)/train.done: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -r requirements.txt
	touch $@

$(VENV)/test.done: requirements-test.txt $(VENV)/train.done
	$(VENV)/bin/python -m pip install -q -r requirements-test.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache __pycache__ */__pycache__
