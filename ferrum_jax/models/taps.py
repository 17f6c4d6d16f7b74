"""The run of a `Taps` through one trace: reads and changes the values that the model offers."""

from __future__ import annotations

import jax

from ferrum_jax.types import SITES, ModelError, Taps, UnsupportedError


class TapRun:
    """`x = run("resid_post", x, layer)` is the identity unless that site is captured or edited.

    Made anew for each trace and dropped after it. Captured values are kept as the model goes on
    with them, edits included.
    """

    def __init__(self, taps: Taps):
        for site in taps.sites:
            if site not in SITES:
                raise ModelError(f"{site!r} is not a site; the sites are {', '.join(SITES)}")
        self._taps = taps
        self._reached: set[str] = set()
        self.captured: dict[str, dict[int, jax.Array]] = {}

    def wants(self, site: str) -> bool:
        return site in self._taps.sites

    def __call__(self, site: str, x: jax.Array, layer: int) -> jax.Array:
        if not self.wants(site):
            return x
        self._reached.add(site)
        for edit in self._taps.edits.get(site, ()):
            changed = edit(x, layer)
            if changed.shape != x.shape:
                raise ModelError(
                    f"the edit at {site}, layer {layer} returned shape {changed.shape}; "
                    f"it must keep {x.shape}"
                )
            x = changed.astype(x.dtype)
        if site in self._taps.capture:
            self.captured.setdefault(site, {})[layer] = x
        return x

    def check_all_reached(self, besides: str) -> None:
        """Raise for a site that is asked for and that this model or attention does not have.

        `besides` names the site that another function reaches.
        """
        missed = sorted(self._taps.sites - self._reached - {besides})
        if "pattern" in missed:
            raise UnsupportedError(
                "the site 'pattern' exists only where attention weights are formed; "
                "use dense_attention"
            )
        if missed:
            raise ModelError(f"this model never reaches the site(s) {', '.join(missed)}")
