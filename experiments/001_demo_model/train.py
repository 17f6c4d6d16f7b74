"""Train the demo model with optax through the library's own forward. Resumes where it stopped."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from batches import token_batches
from config import MODEL, Stage, Training
from corpus import WORK
from flax import serialization
from tqdm import tqdm

from ferrum_jax.attention import dense_attention_of_rows
from ferrum_jax.models import forward, init_params, unembed

CHECKPOINT = WORK / "checkpoint.msgpack"
LOG = WORK / "loss.jsonl"


def make_optimizer(run: Training) -> optax.GradientTransformation:
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
            mask=lambda params: jax.tree_util.tree_map(lambda x: x.ndim > 1, params),
        ),
    )


def mean_loss(params, batch_BS1):
    """Mean cross-entropy in nats per token of `[B, S + 1]` token ids."""
    count, length = batch_BS1.shape[0], batch_BS1.shape[1] - 1
    tokens, targets = batch_BS1[:, :-1].reshape(-1), batch_BS1[:, 1:].reshape(-1)
    positions = jnp.tile(jnp.arange(length, dtype=jnp.int32), count)
    hidden, _ = forward(
        params, tokens, positions, None, config=MODEL, attend=dense_attention_of_rows(count)
    )
    logits = unembed(params, hidden, MODEL)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def make_update(optimizer: optax.GradientTransformation):
    """`(params, state, batch) -> (params, state, loss)`, jitted, its inputs donated."""

    def update(params, state, batch):
        loss, grads = jax.value_and_grad(mean_loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return jax.jit(update, donate_argnums=(0, 1))


def batches_from(stream: np.ndarray, run: Training, step: int) -> Iterator[np.ndarray]:
    """The run's batches from a step on: a function of the seed and the step alone."""
    first = 0
    for index, stage in enumerate(run.stages):
        done = max(0, step - first)
        if done < stage.steps:
            yield from _stage_batches(stream, stage, run.seed + index, done)
        first += stage.steps


def _stage_batches(stream: np.ndarray, stage: Stage, seed: int, done: int) -> Iterator[np.ndarray]:
    batches = token_batches(
        stream, batch_size=stage.sequences, seq_len=stage.length, seed=seed, start_step=done
    )
    for _ in range(stage.steps - done):
        yield next(batches).astype(np.int32)


def save(path: Path, step: int, params, state) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    part.write_bytes(serialization.to_bytes({"step": step, "params": params, "state": state}))
    part.replace(path)


def load(path: Path, params, state):
    """`(step, params, state)` of a checkpoint; the arguments give the structure."""
    held = serialization.from_bytes(
        {"step": 0, "params": params, "state": state}, path.read_bytes()
    )
    return held["step"], held["params"], held["state"]


def train(run: Training):
    """Run all steps, or those that a checkpoint leaves; returns the parameters."""
    stream = np.load(WORK / "train.npy")
    optimizer = make_optimizer(run)
    params = init_params(MODEL, seed=run.seed)
    step, state = 0, optimizer.init(params)
    if CHECKPOINT.exists():
        step, params, state = load(CHECKPOINT, params, state)
    update = make_update(optimizer)
    bar = tqdm(total=run.steps, initial=step, unit="step", desc="train", mininterval=5)
    start, seconds_before = time.monotonic(), logged_seconds(step)
    with LOG.open("a") as log:
        for batch in batches_from(stream, run, step):
            params, state, loss = update(params, state, batch)
            step += 1
            seconds = seconds_before + time.monotonic() - start
            row = {"step": step, "loss": float(loss), "seconds": round(seconds, 1)}
            log.write(json.dumps(row) + "\n")
            bar.update()
            if step % run.checkpoint_every == 0 or step == run.steps:
                log.flush()
                save(CHECKPOINT, step, params, state)
                bar.set_postfix(loss=f"{row['loss']:.3f}")
    bar.close()
    return params


def read_log() -> list[dict]:
    """The loss of every step; of a step that ran twice, the later run."""
    rows = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    return list({row["step"]: row for row in rows}.values())


def logged_seconds(step: int) -> float:
    return max((row["seconds"] for row in read_log() if row["step"] <= step), default=0.0)


if __name__ == "__main__":
    train(Training())
