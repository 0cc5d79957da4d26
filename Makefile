# make train   set up .venv and train on the built-in world (SV-SFT, ASV-SFT, IBPO, evaluation)
# make test    set up .venv and run the tests
# make controls   after `make train`: the two controls, and the table with all models
# make reproduce  set up .venv and make results/ from the committed base: hours; SEEDS=5 for more than three
PYTHON ?= python3
VENV := .venv
SEEDS ?= 3

.PHONY: train controls reproduce test publish-base publish clean

train: $(VENV)/train.done
	$(VENV)/bin/python train.py

# after `make train`: two controls, the same training with other accepted responses, and the table with all models
controls: $(VENV)/train.done
	$(VENV)/bin/python train.py --stage ibpo --method random
	$(VENV)/bin/python train.py --stage ibpo --method cgpo
	$(VENV)/bin/python eval.py checkpoints/base runs/builtin/sv-sft runs/builtin/asv-sft runs/builtin/cgpo \
		runs/builtin/random-50 runs/builtin/ibpo-50 --problems 8000 --out runs/builtin/eval

reproduce: $(VENV)/train.done
	$(VENV)/bin/python reproduce.py --seeds $(SEEDS)

test: $(VENV)/test.done
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# a new requirements file installs again
$(VENV)/train.done: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -r requirements.txt
	touch $@

$(VENV)/test.done: requirements-test.txt $(VENV)/train.done
	$(VENV)/bin/python -m pip install -q -r requirements-test.txt
	touch $@

# for maintainers: the weights that are committed, in bf16; the base has to be trained first
define publish_checkpoint
	$(VENV)/bin/python -c "import torch, llama; llama.save(llama.load('$(1)', torch.bfloat16), '$(2)')"
	cp $(addprefix $(1)/,tokenizer.json tokenizer_config.json chat_template.jinja ibpo.json) $(2)/
endef

publish-base: $(VENV)/train.done
	$(call publish_checkpoint,runs/builtin/base,checkpoints/base)

publish: $(VENV)/train.done
	$(call publish_checkpoint,runs/builtin/ibpo-50,checkpoints/ibpo)

clean:
	rm -rf $(VENV) .pytest_cache __pycache__ */__pycache__
