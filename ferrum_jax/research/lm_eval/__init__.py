"""ferrum_jax under EleutherAI's lm-eval (Gao et al., https://github.com/EleutherAI/lm-evaluation-harness).

    python -m ferrum_jax.research.lm_eval --model ferrum_jax \\
        --model_args pretrained=demo,dtype=float32 --tasks TASK

is `lm_eval` with one model more. An lm-eval that looks for the entry points `lm_eval.models` of
installed packages finds that model by itself, and then plain `lm_eval --model ferrum_jax ...` does
the same. From Python, with a model that is already there, edited or not:

    from ferrum_jax.research.lm_eval import FerrumLM
    lm_eval.simple_evaluate(model=FerrumLM(llm, taps=fj.edits.ablate_heads([(3, 5)])), tasks=[...])

The numbers are those of lm-eval's own `hf` model on the same checkpoint. Needs lm-eval
(`pip install 'ferrum-jax[eval]'`), but no torch; only `FerrumLM` needs it, `loglikelihoods` and
`generate_texts` do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ferrum_jax.research.lm_eval.generation import generate_texts
from ferrum_jax.research.lm_eval.model import EngineModel, ferrum_lm
from ferrum_jax.research.lm_eval.scoring import loglikelihoods

if TYPE_CHECKING:
    FerrumLM = EngineModel

__all__ = ["EngineModel", "FerrumLM", "generate_texts", "loglikelihoods"]


def __getattr__(name: str) -> Any:
    """`FerrumLM` is made when it is asked for: its base class is lm-eval's."""
    if name == "FerrumLM":
        return ferrum_lm()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
