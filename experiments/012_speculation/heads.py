"""Heads on the demo model that draft for themselves, and whether they would pay (Cai et al. 2024).

    python experiments/012_speculation/heads.py

Head k is a residual block `h + silu(h W + b)` on the hidden state behind the final norm, read out
through the model's own embedding; it is trained to say what the model itself will say k tokens
later than its next one, given the text in between. Needs the corpus of experiment 001.

Dimension key: B sequences, S tokens of each, T = B S, V vocabulary, D width, K heads.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from config import HEADS, NUM_HEADS
from distil import DIRECTORY, TEACHER, TEACHER_PARAMS, hidden_of, logits_of
from jaxtyping import Array, Float
from training import train

import ferrum_jax as fj
from ferrum_jax.models import unembed
from ferrum_jax.runtime.record import environment, write_json

sys.path.append(str(Path(__file__).parent.parent))
from held_out import read_held_out

HERE = Path(__file__).parent
PROMPT, LENGTH = 32, 256
"""Tokens of each text: those of a held-out document, and all."""


def first_heads() -> dict[str, Array]:
    """Heads that say what the model says: W and b are zero."""
    width = TEACHER.hidden_size
    return {"w": jnp.zeros((NUM_HEADS, width, width)), "b": jnp.zeros((NUM_HEADS, width))}


def head_logits(heads: dict[str, Array], hidden_TD: Array, k: int) -> Float[Array, "T V"]:
    """What head k, from 0, says at every position."""
    block = hidden_TD + jax.nn.silu(hidden_TD @ heads["w"][k] + heads["b"][k])
    return unembed(TEACHER_PARAMS, block, TEACHER)


def divergence(heads: dict[str, Array], teacher: object, batch: Array) -> Float[Array, ""]:
    """Mean over heads of KL(model, later || head), weighted 0.8 ** k as in Medusa."""
    del teacher
    tokens_BS = batch[:, :-1]
    count, length = tokens_BS.shape
    hidden_TD = jax.lax.stop_gradient(hidden_of(TEACHER_PARAMS, TEACHER, tokens_BS))
    p_BSV = jax.nn.log_softmax(unembed(TEACHER_PARAMS, hidden_TD, TEACHER)).reshape(
        count, length, -1
    )
    total = jnp.zeros(())
    for k in range(NUM_HEADS):
        q_BSV = jax.nn.log_softmax(head_logits(heads, hidden_TD, k)).reshape(count, length, -1)
        later, said = p_BSV[:, k + 1 :], q_BSV[:, : -(k + 1)]
        divergence = jnp.sum(jnp.exp(later) * (later - said), axis=-1)
        total += 0.8**k * jnp.mean(divergence)
    return total


def own_texts() -> dict[str, list[np.ndarray]]:
    """What the demo model writes behind the first tokens of each held-out document."""
    texts = {}
    with fj.LLM.load("demo", engine=fj.EngineConfig(max_num_seqs=16)) as llm:
        prompts = [ids[:PROMPT] for ids in read_held_out(llm, LENGTH).ids]
        for name, temperature in (("greedy", 0.0), ("temperature 1", 1.0)):
            params = fj.SamplingParams(
                max_tokens=LENGTH - PROMPT, temperature=temperature, seed=0, ignore_eos=True
            )
            outputs = llm.generate(prompts, params)
            texts[name] = [np.asarray(o.prompt_token_ids + o.outputs[0].token_ids) for o in outputs]
    return texts


def judge_heads(heads: dict[str, Array], texts: list[np.ndarray]) -> np.ndarray:
    """bool `[K, n]`: whether the likeliest token of head k, 2 + k behind its position, stands
    there; positions of the prompts left out."""
    found = []
    for ids in texts:
        hidden = hidden_of(TEACHER_PARAMS, TEACHER, jnp.asarray(ids)[None])
        places = np.arange(PROMPT, len(ids) - 1 - NUM_HEADS)
        said = [np.asarray(head_logits(heads, hidden, k)).argmax(axis=1) for k in range(NUM_HEADS)]
        found.append([said[k][places] == ids[places + 2 + k] for k in range(NUM_HEADS)])
    return np.concatenate(found, axis=1)


def judge_draft(texts: list[np.ndarray]) -> np.ndarray:
    """The same of the distilled model, which has read the model's own next token and, where the
    draft was right so far, the tokens behind it."""
    config, params = fj.load_model(DIRECTORY)
    found = []
    for ids in texts:
        said = np.asarray(logits_of(params, config, jnp.asarray(ids)[None])).argmax(axis=1)
        places = np.arange(PROMPT, len(ids) - 1 - NUM_HEADS)
        found.append([said[places + 1 + k] == ids[places + 2 + k] for k in range(NUM_HEADS)])
    return np.concatenate(found, axis=1)


def in_a_row(agrees_Kn: np.ndarray) -> dict[str, float | list[float]]:
    """How often token k of a draft is right, how often all up to k are, and the tokens of a
    verification: one from the model, and those that are right in a row."""
    row_K = np.cumprod(agrees_Kn, axis=0).mean(axis=1)
    return {
        "each": agrees_Kn.mean(axis=1).round(4).tolist(),
        "in_a_row": row_K.round(4).tolist(),
        "tokens": round(float(1 + row_K.sum()), 3),
    }


def main() -> None:
    """Train, judge on text that the model writes itself, and write `heads.json`."""
    heads = train("heads", HEADS, first_heads(), 0, divergence)
    result = environment("python experiments/012_speculation/heads.py")
    result["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(heads))
    result["training_tokens"] = HEADS.tokens
    for name, texts in own_texts().items():
        for who, agrees in (
            ("heads", judge_heads(heads, texts)),
            ("draft model", judge_draft(texts)),
        ):
            result[f"{who}, {name}"] = in_a_row(agrees)
            print(f"{who}, {name}:", result[f"{who}, {name}"])
    write_json(HERE / "heads.json", result)


if __name__ == "__main__":
    main()
