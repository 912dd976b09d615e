TRIALS ?= 200
SEED ?= 1

.PHONY: chaos
chaos: $(VENV)/.installed ## kill a migration at random moments, finish it, compare (TRIALS=200 SEED=1)
	@PYTHONPATH=tests $(BIN)/python -m chaos --trials $(TRIALS) --seed $(SEED)

.PHONY: test-chaos
test-chaos: $(VENV)/.installed ## a few of those trials, and proof that their judgement catches what it should
	@$(BIN)/python -m pytest tests/chaos
