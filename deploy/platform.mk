# The platform in containers. Included by the root Makefile.

.PHONY: up up-demo up-emulators down reset logs status airgap-images test-stack

up: ## Start the platform: writes .env when missing, builds, waits until healthy, prints the address
	@deploy/start.sh

up-demo: ## The same with an old and a new shop to migrate between
	@deploy/start.sh demo

up-emulators: ## The same with servers that behave like Shopify, NetSuite, Airbyte, Fivetran and REST APIs
	@deploy/start.sh emulators

down: ## Stop the platform; what is stored stays
	@deploy/stop.sh

reset: ## Stop the platform and delete all that it stored; asks first (SURE=yes does not)
	@deploy/stop.sh reset

logs: ## Follow what the services say
	@docker compose --profile demo --profile emulators logs --follow --tail 100

status: ## Services with their health, and the containers of runs
	@deploy/status.sh

airgap-images: ## Make the base image from Debian's packages, for networks without an image registry
	@deploy/airgap/images.sh

test-stack: $(VENV)/.installed ## Build and start a stack of its own, test it through GraphQL and a browser, remove it
	@deploy/test-stack.sh
