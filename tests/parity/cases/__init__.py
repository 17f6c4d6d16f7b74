"""The table of parity cases: one small model per family and per option of its config.

Each case names a `model_type` and the config keys that it sets; everything else is the default of
transformers. The sizes are tiny, the sequences longer than every sliding window, and the values
chosen so that an option that is ignored shows: a large `rms_norm_eps`, soft caps close to the
scores, heads whose size is not hidden_size / heads.

Every file here has a list `CASES`; this one puts them together. Needs no package besides the
standard library.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .case import Case

CASES: dict[str, Case] = {
    case.name: case
    for module in iter_modules(__path__)
    if module.name != "case"
    for case in import_module(f"{__name__}.{module.name}").CASES
}

__all__ = ["CASES", "Case"]
