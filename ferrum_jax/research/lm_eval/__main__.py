"""`python -m ferrum_jax.research.lm_eval ...`: the command `lm_eval`, with the model `ferrum_jax`.

For releases of lm-eval that do not look for the models of installed packages.
"""

from __future__ import annotations

from ferrum_jax.research.lm_eval.model import ferrum_lm


def main() -> None:
    """Register the model, then do what `lm_eval` does with the same arguments."""
    model = ferrum_lm()
    import lm_eval.models  # noqa: F401  # pyright: ignore
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore
    from lm_eval.api.registry import register_model  # pyright: ignore

    # After lm-eval's own models: it registers those only while nothing else is registered.
    register_model("ferrum_jax")(model)
    cli_evaluate()


if __name__ == "__main__":
    main()
