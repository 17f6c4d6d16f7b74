"""Running models: devices, the jitted step, the engine, and `LLM` on top of them."""
