"""A resumable training loop over the corpus of experiment 001."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from config import Training
from flax import serialization
from tqdm import tqdm

sys.path.append(str(Path(__file__).parent.parent / "001_demo_model"))
from batches import token_batches
from corpus import WORK as CORPUS

WORK = Path(__file__).parent / "work"
Loss = Callable[[Any, Any, jax.Array], jax.Array]


def optimizer_of(run: Training) -> optax.GradientTransformation:
    """AdamW with warm-up, cosine decay and clipping; vectors and norms are not decayed."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, run.peak_rate, run.warmup_steps, run.steps, run.end_rate
    )
    return optax.chain(
        optax.clip_by_global_norm(run.clip_norm),
        optax.adamw(
            rate,
            b2=run.beta2,
            weight_decay=run.weight_decay,
            mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        ),
    )


def train(name: str, run: Training, params: Any, teacher: Any, loss_of: Loss) -> Any:
    """Minimise `loss_of(params, teacher, tokens [B, S + 1])`; goes on from a checkpoint.

    The loss of every step goes to `work/NAME.jsonl`.
    """
    WORK.mkdir(exist_ok=True)
    stream = np.load(CORPUS / "train.npy")
    optimizer = optimizer_of(run)
    checkpoint, step, state = WORK / f"{name}.msgpack", 0, optimizer.init(params)
    if checkpoint.exists():
        held = {"step": step, "params": params, "state": state}
        held = serialization.from_bytes(held, checkpoint.read_bytes())
        step, params, state = held["step"], held["params"], held["state"]

    def update(params: Any, state: Any, teacher: Any, batch: jax.Array) -> tuple:
        loss, gradients = jax.value_and_grad(loss_of)(params, teacher, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    jitted = jax.jit(update, donate_argnums=(0, 1))
    batches = token_batches(
        stream,
        batch_size=run.sequences,
        seq_len=run.length,
        seed=run.seed,
        start_step=step,
    )
    bar = tqdm(total=run.steps, initial=step, unit="step", desc=name, mininterval=10)
    start = time.monotonic()
    with (WORK / f"{name}.jsonl").open("a") as log:
        while step < run.steps:
            params, state, loss = jitted(params, state, teacher, next(batches).astype(np.int32))
            step += 1
            row = {"step": step, "loss": float(loss), "seconds": time.monotonic() - start}
            log.write(json.dumps(row) + "\n")
            bar.update()
            if step % run.checkpoint_every == 0 or step == run.steps:
                log.flush()
                held = {"step": step, "params": params, "state": state}
                checkpoint.write_bytes(serialization.to_bytes(held))
                bar.set_postfix(loss=f"{row['loss']:.3f}")
    bar.close()
    return params
