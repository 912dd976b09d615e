# Benchmarks: ratios measured side by side in one run. Included by the root Makefile.

.PHONY: bench
bench: $(VENV)/.installed ## measure against a script by hand, COPY, pandas, dlt and Pydantic; writes docs/speed.md
	@mkdir -p out/bench
	@$(BIN)/python benchmarks/contracts.py --json > out/bench/contracts.json
	@$(BIN)/python benchmarks/migration.py --scale $(or $(SCALE),1) --rounds $(or $(ROUNDS),3)
	@$(BIN)/python benchmarks/copy_orders.py --scale $(or $(SCALE),1) --rounds $(or $(ROUNDS),3)
	@$(BIN)/python benchmarks/growth.py
	@$(BIN)/python benchmarks/page.py
