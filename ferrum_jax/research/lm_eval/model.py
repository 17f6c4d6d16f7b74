"""lm-eval's model interface on top of an LLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jax

from ferrum_jax.research.lm_eval.arguments import (
    check_known,
    check_lm_evals,
    check_settled,
    length_of,
    load,
)
from ferrum_jax.research.lm_eval.generation import generate_texts
from ferrum_jax.research.lm_eval.scoring import loglikelihoods
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.runtime.record import environment, weights_digest
from ferrum_jax.types import RequestError, Taps, TokenizerError, UnsupportedError

END = "\N{INVISIBLE SEPARATOR} "
"""Put behind a message that is to be continued, to find its end in the rendered conversation. The
space tells whether the template strips messages."""


@cache
def ferrum_lm() -> type[EngineModel]:
    """The class `FerrumLM`: `EngineModel` over lm-eval's `TemplateLM`, which splits the tokens.

    Raises:
        UnsupportedError: lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import TemplateLM  # pyright: ignore
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"FerrumLM is a model of lm-eval, and {error.name} is not installed; "
            "pip install 'ferrum-jax[eval]'"
        ) from error

    class FerrumLM(EngineModel, TemplateLM):
        """`lm_eval --model ferrum_jax`; see `EngineModel`."""

    # Where the entry point finds it, and what lm-eval compares that with.
    FerrumLM.__module__ = __package__ or __name__
    FerrumLM.__qualname__ = FerrumLM.__name__
    return FerrumLM


class EngineModel:
    """What lm-eval asks of a model, answered by an LLM's engine: all requests in one batch each.

    Beside lm-eval's `TemplateLM`, which splits a text into context and continuation, it is
    lm-eval's model `ferrum_jax`; alone it scores and generates what is split already.
    """

    def __init__(
        self,
        pretrained: str | LLM,
        *,
        dtype: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        seed: int = 1234,
        taps: Taps | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **engine: Any,
    ):
        """The model of a checkpoint, or an LLM as it stands, with its own engine.

        Args:
            pretrained: a directory, a hub id or `demo`, as `LLM.load`; or an LLM.
            dtype: of the weights; None: float32, whatever the checkpoint's.
            max_length: tokens that the model sees; None: its own number of positions (or what the
                LLM's engine holds).
            max_gen_toks: tokens to generate where a task does not say.
            add_bos_token: whether texts begin with it; None: as the tokenizer's files say.
            prefix_token_id: what an empty context is replaced by; None: BOS, or else EOS.
            seed: of tasks that sample; every request of a task has its own, counted from it.
            taps: edits of the model, for all requests; from Python only.
            batch_size, max_batch_size, device: lm-eval's own, of no effect: the engine batches by
                itself, on the device that jax has.
            engine: `max_num_seqs`, `max_num_batched_tokens`, `num_pages`, `kv_dtype` and
                `batch_invariant` of `EngineConfig`.

        Raises:
            RequestError: an unknown argument, or one that a given LLM has settled already.
            TokenizerError: the model has no tokenizer.
            FerrumError: as `LLM.load`.
        """
        super().__init__()
        check_lm_evals(batch_size, max_batch_size, device)
        check_known(engine)
        if isinstance(pretrained, LLM):
            check_settled(dtype, engine)
            self.llm, self.name = pretrained, "LLM"
        else:
            self.llm, self.name = load(pretrained, dtype, max_length, engine), pretrained
        if self.llm.tokenizer is None:
            raise TokenizerError(
                f"lm-eval's tasks are texts, and {self.name} has no tokenizer; put tokenizer.json "
                "or tokenizer.model beside its weights"
            )
        self.tokenizer = self.llm.tokenizer
        self.max_length = length_of(self.llm) if max_length is None else max_length
        self.max_gen_toks, self.seed, self.taps = max_gen_toks, seed, taps
        self.add_bos_token, self._prefix_token_id = add_bos_token, prefix_token_id

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; raises `TokenizerError` if the tokenizer has none."""
        if not self.tokenizer.eos_token_ids:
            raise TokenizerError("the tokenizer names no EOS token; give prefix_token_id")
        return self.tokenizer.eos_token_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context, and before the text of a perplexity."""
        if self._prefix_token_id is not None:
            return self._prefix_token_id
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """By which lm-eval tells cached prompts of different tokenizers apart."""
        return str(self.name).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text; a text that begins with the prefix token gets no second one."""
        if kwargs:
            raise RequestError(f"tok_encode does not know {', '.join(kwargs)}")
        prefix = self.tokenizer.decode([self.prefix_token_id], skip_special_tokens=False)
        if add_special_tokens is None and prefix and string.startswith(prefix):
            return self.tokenizer.encode(string, add_special_tokens=False)
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        ids = self.tokenizer.encode(string, add_special_tokens=special is not False)
        bos = self.tokenizer.bos_token_id
        if self.add_bos_token and special and bos is not None and ids[:1] != [bos]:
            return [bos, *ids]  # the tokenizer's own files ask for none
        return ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood and greedy flag of each (anything, context ids, continuation ids)."""
        return loglikelihoods(
            self.llm,
            [(context, continuation) for _, context, continuation in requests],
            max_length=self.max_length,
            taps=self.taps,
            progress=not disable_tqdm,
        )

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, in windows that each token is predicted in once."""
        from lm_eval.utils import (  # pyright: ignore
            get_rolling_token_windows,
            make_disjoint_window,
        )

        windows = [
            [
                (None, *make_disjoint_window(window))
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        flat = [window for of_text in windows for window in of_text]
        scores = iter(self._loglikelihood_tokens(flat, disable_tqdm=disable_tqdm))
        return [sum(next(scores)[0] for _ in of_text) for of_text in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to a stop string of its task."""
        return generate_texts(
            self.llm,
            [(self.tok_encode(request.args[0]), request.args[1]) for request in requests],
            max_length=self.max_length,
            max_gen_toks=self.max_gen_toks,
            seed=self.seed,
            taps=self.taps,
            progress=not disable_tqdm,
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's template as a text, for lm-eval's records.

        Raises:
            UnsupportedError: one is asked for by name.
        """
        if isinstance(chat_template, str):
            raise UnsupportedError(
                f"apply_chat_template is {chat_template!r}; only the tokenizer's default template "
                "is used: give the option without a name"
            )
        return self.tokenizer.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as a prompt; without `add_generation_prompt` its last message is open.

        Raises:
            TokenizerError: there is no template, or it refuses the conversation (a system
                message, say) or leaves out the message that is to be continued.
        """
        if add_generation_prompt:
            return self.tokenizer.apply_chat_template(chat_history)
        *before, last = chat_history
        marked = {**last, "content": last["content"] + END}
        rendered = self.tokenizer.apply_chat_template(
            [*before, marked], add_generation_prompt=False
        )
        text, mark, behind = rendered.rpartition(END[0])
        if not mark:
            raise TokenizerError(
                "the chat template leaves out the last message, which is to be continued"
            )
        return text if behind.startswith(END[1]) else text.rstrip()

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's records say of the model: its size, weights, engine, versions, device."""
        leaves = jax.tree.leaves(self.llm.params)
        return {
            "model_num_parameters": sum(leaf.size for leaf in leaves),
            "model_dtype": str(self.llm.params.embed.dtype),
            "model_weights_sha256": weights_digest(self.llm.params),
            "model_max_length": self.max_length,
            "model_edited_sites": sorted(self.taps.edits) if self.taps else [],
            "model_adapter": self.taps.adapters.digest if self.taps and self.taps.adapters else "",
            "ferrum_jax": {
                "engine": dataclasses.asdict(self.llm.engine_config),
                **environment(),
            },
        }
