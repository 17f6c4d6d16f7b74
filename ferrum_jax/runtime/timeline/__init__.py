"""Who ran when: record steps, then read, export or draw them."""

from ferrum_jax.runtime.timeline.timeline import Timeline

__all__ = ["Timeline"]
