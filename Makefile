PYTHON ?= python3
VENV := .venv
SEEDS ?= 3
RUN := $(VENV)/bin/python

.PHONY: help train controls reproduce test quick bench notebooks publish-base publish clean

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /make \1|/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*## /make \1   /p' $(MAKEFILE_LIST)

train: $(VENV)/train.done  ## set up .venv and train on the built-in world: SV-SFT, ASV-SFT, IBPO, evaluation
	$(RUN) train.py

test: $(VENV)/test.done  ## set up .venv and run all tests
	$(RUN) -m ruff check
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

quick: $(VENV)/test.done  ## the tests without the slow ones: a minute
	$(RUN) -m ruff check
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

controls: $(VENV)/train.done  ## after `make train`: two controls, and the table with all models
	$(RUN) train.py --stage ibpo --method random
	$(RUN) train.py --stage ibpo --method cgpo
	$(RUN) eval.py checkpoints/base runs/builtin/sv-sft runs/builtin/asv-sft runs/builtin/cgpo \
		runs/builtin/random-50 runs/builtin/ibpo-50 --problems 8000 --out runs/builtin/eval

reproduce: $(VENV)/train.done  ## results/ from the committed base: hours; SEEDS=5 for more than three
	$(RUN) experiments/reproduce.py --seeds $(SEEDS)

bench: $(VENV)/test.done  ## how fast it is: sampling beside transformers, processes, memory; seven minutes
	OMP_NUM_THREADS=1 $(RUN) bench/speed.py --quick
	$(RUN) bench/processes.py --rounds 3
	$(RUN) bench/memory.py

notebooks: $(VENV)/test.done  ## open the notebooks in a browser
	$(RUN) -m pip install -q notebook
	$(VENV)/bin/jupyter notebook notebooks

# a new requirements file installs again
$(VENV)/train.done: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -r requirements.txt
	touch $@

$(VENV)/test.done: requirements-test.txt $(VENV)/train.done
	$(RUN) -m pip install -q -r requirements-test.txt
	touch $@

# for maintainers: the weights that are committed, in bf16; the base has to be trained first
define publish_checkpoint
	$(RUN) -c "import torch, llama; llama.save(llama.load('$(1)', torch.bfloat16), '$(2)')"
	cp $(addprefix $(1)/,tokenizer.json tokenizer_config.json chat_template.jinja ibpo.json) $(2)/
endef

publish-base: $(VENV)/train.done  ## copy runs/builtin/base to checkpoints/base
	$(call publish_checkpoint,runs/builtin/base,checkpoints/base)

publish: $(VENV)/train.done  ## copy sv-sft and ibpo-50 of runs/builtin to checkpoints/
	$(call publish_checkpoint,runs/builtin/sv-sft,checkpoints/sv-sft)
	$(call publish_checkpoint,runs/builtin/ibpo-50,checkpoints/ibpo)

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache __pycache__ */__pycache__
