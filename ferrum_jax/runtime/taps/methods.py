"""The methods of `LLM` that read activations out of served requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ferrum_jax.models.sites import check_taps
from ferrum_jax.runtime.prompts import Prompt, as_prompts, prompt_text, taps_per_prompt
from ferrum_jax.runtime.sentence import EmbeddingDefaults
from ferrum_jax.runtime.serving import Serving
from ferrum_jax.runtime.taps.capture import CapturedChunk, capture_taps
from ferrum_jax.runtime.taps.collect import collect
from ferrum_jax.runtime.taps.pooling import POOLINGS, check_pooling, pooled, unit_length
from ferrum_jax.types import SamplingParams, Taps, UnsupportedError


class Capturing(Serving):
    """What an LLM that has an engine can capture."""

    embedding_defaults: EmbeddingDefaults

    def capture(
        self,
        texts: Prompt | Sequence[Prompt],
        sites: str | Sequence[str] = ("resid_post",),
        layers: int | Sequence[int] | None = None,
        *,
        positions: Any = None,
        dtype: str | None = None,
        params: SamplingParams | None = None,
        taps: Taps | Sequence[Taps | None] | None = None,
        to: str | Path | None = None,
        progress: bool = False,
    ) -> Any:
        """Activations of every token, by site and layer, computed by the engine in batches.

        Args:
            sites: see `ferrum_jax.types.SITES`; `logits` has the layer `config.num_layers`.
            layers: None: all that have the site.
            positions: those that are kept, as an index, a list or a slice (negative ones count
                from the end of what was captured); None: all.
            dtype: of the arrays; None: the model's (`router`, `pattern` and `logits` are float32).
            params: generate with these, and capture the generated tokens too; all but the last,
                which the model has not read. None: the texts alone.
            taps: edits of the model, one for all, or one per text.
            to: a folder that the activations are streamed to; they need not fit in memory.
            progress: show a bar by texts.

        Returns:
            Per text `{site: {layer: array [n, ...]}}`; with `to` an `Activations`, which reads the
            same from the folder, memory-mapped.

        Raises:
            RequestError: a site, layer or position that does not exist, or a wrong prompt.
        """
        prompts = as_prompts(texts)
        chunks = self.iter_capture(prompts, sites, layers, params=params, taps=taps)
        return collect(
            chunks, len(prompts), positions=positions, dtype=dtype, to=to, progress=progress
        )

    def iter_capture(
        self,
        texts: Prompt | Iterable[Prompt],
        sites: str | Sequence[str] = ("resid_post",),
        layers: int | Sequence[int] | None = None,
        *,
        params: SamplingParams | None = None,
        taps: Taps | Sequence[Taps | None] | None = None,
    ) -> Iterator[CapturedChunk]:
        """`capture`, piece by piece as the engine's steps land; nothing is kept.

        `texts` may be any iterable, which is read as the engine gets to it (with one `taps` for
        all). A text's chunks come in order, those of several texts between one another.
        """
        wanted = capture_taps(self.config, sites, layers)
        check_taps(self.config, wanted)
        counted = isinstance(texts, str | Sequence)
        prompts: Iterable[Any] = as_prompts(texts) if counted else texts
        pairs = zip(prompts, taps_per_prompt(taps, prompts), strict=False)
        chosen = params or SamplingParams(max_tokens=1, temperature=0.0)

        def add(pair: tuple[Prompt, Taps | None]) -> int:
            prompt, edits = pair
            return self.engine.add(
                self.encode(prompt),
                chosen,
                prompt=prompt_text(prompt),
                taps=wanted if edits is None else replace(edits, capture=()) + wanted,
                score_only=params is None,
            )

        return self.driver.capture(pairs, add, window=2 * self.engine_config.max_num_seqs)

    def embed(
        self,
        texts: Prompt | Sequence[Prompt],
        pooling: str | None = None,
        normalize: bool | None = None,
        *,
        taps: Taps | Sequence[Taps | None] | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """float32 `[texts, D]`: each text's hidden states after the final norm, pooled.

        They are what the output matrix is applied to: of the token itself and all before it.

        Args:
            pooling: `last`, the last token's; `mean` over all tokens, in float32 or finer; `cls`,
                the first token's, which in a causal model has seen nothing but itself. Special
                tokens that the tokenizer adds are tokens like others.
            normalize: divide each vector by its Euclidean length.
                Where these two are None they are as the directory's modules.json says
                (sentence-transformers), or else `last` and False.
            taps: edits of the model and adapters, one for all, or one per text.

        Raises:
            RequestError: another pooling, or a wrong prompt.
            UnsupportedError: no pooling is given, and modules.json asks for what is not done.
        """
        defaults = self.embedding_defaults
        if pooling is None and defaults.unsupported:
            raise UnsupportedError(
                f"modules.json asks for {defaults.unsupported}, which embed does not do; choose "
                f"a pooling of {', '.join(POOLINGS)}"
            )
        pooling, normalize = check_pooling(
            defaults.pooling if pooling is None else pooling,
            defaults.normalize if normalize is None else normalize,
        )
        prompts = as_prompts(texts)
        chunks = self.iter_capture(prompts, "resid_post", self.config.num_layers - 1, taps=taps)
        found = pooled(chunks, len(prompts), pooling, self.params, self.config, progress=progress)
        return unit_length(found) if normalize else found
