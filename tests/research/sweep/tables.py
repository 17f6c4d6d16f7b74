"""Tables that no model has measured."""

import numpy as np

from ferrum_jax.research.sweep import SweepRow, SweepTable
from ferrum_jax.research.sweep.statistics import DocumentValues
from ferrum_jax.research.sweep.table import related


def document_values(sums, weights=None, num_tokens=None):
    weights = np.ones(len(sums)) if weights is None else np.asarray(weights, np.float64)
    return DocumentValues(np.asarray(sums, np.float64), weights, num_tokens)


def make_row(key, sums, **changes):
    key = key if isinstance(key, tuple) else (key,)
    facts = {
        "name": ", ".join(map(str, key)),
        "variant": f"what {key[0]} does",
        "fingerprint": f"print of {key}",
        "run": 0,
        "seconds": 0.5,
        "values": None if sums is None else document_values(sums),
    }
    return SweepRow(key=key, **(facts | changes))


def make_table(rows, **changes):
    """A table of `(key, sums)`, the baseline first; sums None is a failure."""
    made = [
        make_row(key, sums, failure="it went wrong" if sums is None else None) for key, sums in rows
    ]
    facts = {
        "metric": "nll",
        "unit": "nats/token",
        "definition": "d" * 64,
        "weights": "w" * 64,
        "seed": None,
        "runs": (
            {"versions": {"ferrum_jax": "0.1.0", "jax": "0.10.2"}, "device": {"kind": "cpu"}},
        ),
    }
    return SweepTable(rows=related(made, made[0].values), **(facts | changes))
