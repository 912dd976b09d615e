# Benchmarks: ratios measured side by side in one run. Included by the root Makefile.

.PHONY: bench
bench: $(VENV)/.installed ## measure against a script by hand, COPY, pandas, dlt and Pydantic; writes docs/speed.md
	@mkdir -p out/bench
	@$(BIN)/python benchmarks/contracts.py --json > out/bench/contracts.json
	@$(BIN)/python benchmarks/migration.py --scale $(or $(SCALE),1) --rounds $(or $(ROUNDS),3)
	@$(BIN)/python benchmarks/copy_orders.py --scale $(or $(SCALE),1) --rounds $(or $(ROUNDS),3)
	@$(BIN)/python benchmarks/growth.py --rounds $(or $(ROUNDS),3)
	@$(BIN)/python benchmarks/page.py

.PHONY: bench-reports
bench-reports: $(VENV)/.installed ## 5 GB of orders through the shop's pandas reports under 512 MiB (needs 30 GB of disk meanwhile)
	@$(BIN)/python benchmarks/reports.py

.PHONY: bench-backfill
bench-backfill: $(VENV)/.installed ## measure backfills and small runs in containers beside Dagster's example (needs Docker)
	@deploy/with-engine.sh env PYTHONPATH=tests:tests/stack $(BIN)/python benchmarks/backfill.py --rounds $(or $(ROUNDS),3)
	@$(BIN)/python benchmarks/page.py
