"""The command `ferrum-jax`. Parsing loads no jax; a command imports what it runs."""
