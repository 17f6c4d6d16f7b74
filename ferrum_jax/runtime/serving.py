"""What the parts of `LLM` share: the model, its tokenizer, and the engine behind both."""

from __future__ import annotations

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.models import Params
from ferrum_jax.runtime.driver import Driver
from ferrum_jax.runtime.engine import Engine
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import EngineConfig, ModelConfig, TokenizerError


class Serving:
    """A model with an engine, and with a tokenizer or not."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer | None
    engine_config: EngineConfig
    eos_token_ids: tuple[int, ...]

    @property
    def engine(self) -> Engine:
        raise NotImplementedError

    @property
    def driver(self) -> Driver:
        raise NotImplementedError

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; ids pass through.

        Raises:
            TokenizerError: a text was given and there is no tokenizer.
        """
        if not isinstance(prompt, str):
            return list(prompt)
        if self.tokenizer is None:
            raise TokenizerError(
                "this model was loaded without a tokenizer; give lists of token ids, or put "
                "tokenizer.json or tokenizer.model beside its weights"
            )
        return self.tokenizer.encode(prompt)

    def tokens(self, prompt: Prompt) -> list[str]:
        """The prompt's tokens as the vocabulary spells them.

        Raises:
            TokenizerError: there is no tokenizer, or no text for an id.
        """
        ids = self.encode(prompt)
        if self.tokenizer is None:
            raise TokenizerError("this model was loaded without a tokenizer; its tokens are ids")
        return [self.tokenizer.token_text(i) for i in ids]
