# Benchmarks: ratios measured side by side in one run. Included by the root Makefile.

.PHONY: bench
bench: $(VENV)/.installed ## measure against a script by hand and against Pydantic (SCALE=1)
	@$(BIN)/python benchmarks/contracts.py
	@$(BIN)/python benchmarks/migration.py --scale $(or $(SCALE),1)
