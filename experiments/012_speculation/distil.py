"""Distil the model that drafts from the demo model, with optax.

    python experiments/012_speculation/distil.py

Writes the checkpoint `draft/`, which has no tokenizer files: it is the demo model's. Needs the
corpus of experiment 001 (`experiments/001_demo_model/corpus.py` makes it); stops and resumes.

Dimension key: B sequences, S tokens of each, T = B S, V vocabulary, D width of the draft model.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from config import DISTILLATION, DRAFT
from jaxtyping import Array, Float
from training import WORK, train

import ferrum_jax as fj
from ferrum_jax.attention import dense_attention_of_rows
from ferrum_jax.models import Params, forward, init_params, unembed
from ferrum_jax.models.weights.save import save_weights
from ferrum_jax.runtime.directory import DEMO_MODEL
from ferrum_jax.runtime.record import environment, write_json
from ferrum_jax.types import ModelConfig

sys.path.append(str(Path(__file__).parent.parent))
from held_out import read_held_out

DIRECTORY = Path(__file__).parent / "draft"
TEACHER, TEACHER_PARAMS = fj.load_model(DEMO_MODEL)


def first_params(seed: int) -> Params:
    """Random layers under the best embedding of that width: the teacher's, on its first principal
    axes, scaled as that of a new model."""
    params = init_params(DRAFT, seed=seed)
    embedding = np.asarray(TEACHER_PARAMS.embed, np.float64)
    _, _, axes = np.linalg.svd(embedding - embedding.mean(axis=0), full_matrices=False)
    projected = embedding @ axes[: DRAFT.hidden_size].T
    scale = np.std(np.asarray(params.embed)) / projected.std()
    return params.replace(embed=jnp.asarray(scale * projected, jnp.float32))


def hidden_of(params: Params, config: ModelConfig, tokens_BS: Array) -> Float[Array, "T D"]:
    """Behind the final norm, of all positions."""
    count, length = tokens_BS.shape
    hidden, _ = forward(
        params,
        tokens_BS.reshape(-1),
        jnp.tile(jnp.arange(length, dtype=jnp.int32), count),
        None,
        config=config,
        attend=dense_attention_of_rows(count),
    )
    return hidden


def logits_of(params: Params, config: ModelConfig, tokens_BS: Array) -> Float[Array, "T V"]:
    return unembed(params, hidden_of(params, config, tokens_BS), config)


def divergence(params: Params, teacher: Params, batch: Array) -> Float[Array, ""]:
    """Mean KL(teacher || draft) in nats per token (Hinton et al. 2015, at temperature 1)."""
    tokens_BS = batch[:, :-1]
    p_TV = jax.nn.log_softmax(logits_of(teacher, TEACHER, tokens_BS))
    q_TV = jax.nn.log_softmax(logits_of(params, DRAFT, tokens_BS))
    return jnp.mean(jnp.sum(jnp.exp(p_TV) * (p_TV - q_TV), axis=1))


def write(params: Params, directory: Path = DIRECTORY) -> None:
    """The checkpoint: config.json and bf16 weights."""
    layer = DRAFT.layers[0]
    config = json.loads((DEMO_MODEL / "config.json").read_text()) | {
        "hidden_size": DRAFT.hidden_size,
        "intermediate_size": layer.mlp.ffn_size,
        "num_hidden_layers": DRAFT.num_layers,
        "num_attention_heads": layer.attention.num_heads,
        "num_key_value_heads": layer.attention.num_kv_heads,
        "head_dim": layer.attention.head_dim,
    }
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_weights(DRAFT, params, directory, dtype="bfloat16")


def judge(params: Params) -> dict[str, float]:
    """Of the first 256 tokens of the held-out documents, by position, means: KL(teacher || draft),
    the acceptance of a draw under the best coupling (sum of min(p, q)) and under shared noise (the
    share of draws of Gumbel noise that choose the same token), and whether the likeliest agree."""
    with fj.LLM.load("demo") as llm:
        texts = read_held_out(llm, 256).ids
    rows = []
    for ids in texts:
        tokens = jnp.asarray([ids])
        p_TV = jax.nn.log_softmax(logits_of(TEACHER_PARAMS, TEACHER, tokens))
        q_TV = jax.nn.log_softmax(logits_of(params, DRAFT, tokens))
        noise = jax.random.gumbel(jax.random.key(len(rows)), p_TV.shape)
        found = (
            jnp.sum(jnp.exp(p_TV) * (p_TV - q_TV), axis=1),
            jnp.sum(jnp.exp(jnp.minimum(p_TV, q_TV)), axis=1),
            jnp.argmax(p_TV + noise, axis=1) == jnp.argmax(q_TV + noise, axis=1),
            jnp.argmax(p_TV, axis=1) == jnp.argmax(q_TV, axis=1),
        )
        rows.append(np.stack(found).astype(np.float64))
    names = ("kl", "best_coupling", "shared_noise", "likeliest_agree")
    return dict(
        zip(names, np.concatenate(rows, axis=1).mean(axis=1).round(4).tolist(), strict=True)
    )


def main() -> None:
    """Train, write the checkpoint and `distillation.json`."""
    run = DISTILLATION
    start = first_params(run.seed)
    result = environment("python experiments/012_speculation/distil.py")
    result |= {"config": asdict(run) | {"tokens": run.tokens}, "untrained": judge(start)}
    params = train("draft", run, start, TEACHER_PARAMS, divergence)
    write(params)
    lines = (WORK / "draft.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    result["training_kl"] = round(float(np.mean(losses[-100:])), 4)
    result["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(params))
    result["held_out"] = judge(params)
    write_json(Path(__file__).parent / "distillation.json", result)
    print(result)


if __name__ == "__main__":
    main()
