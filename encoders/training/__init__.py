"""Training of encoders: the ColTrast loss, its trainer, and adapters."""
