"""From frozen configs to submitted runs: plan against the store, check, submit."""
