"""Ten thousand requests through a small cache: what they leave behind, as one line of JSON.

    python -m tests.runtime.many_requests

In a process of its own, so that its memory is that of the requests alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import ferrum_jax as fj
from tests.runtime.models import VOCAB, make_llm

COUNT = 10_000
ENGINE = fj.EngineConfig(
    page_size=4,
    num_pages=60,
    max_model_len=128,
    max_num_seqs=16,
    max_num_batched_tokens=64,
    prefix_caching=True,
    preemption="swap",
)


def requests() -> Iterator[tuple[list[int], fj.SamplingParams]]:
    """Prompts of one repeated token, each of random length."""
    rng = random.Random(1)
    for number in range(COUNT):
        prompt = [rng.randrange(3, VOCAB)] * rng.randrange(1, 20)
        yield prompt, fj.SamplingParams(max_tokens=rng.randrange(1, 5), seed=number)


def process_bytes() -> int:
    """Resident memory of this process; where the system does not tell, nothing can grow."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0


def main() -> None:
    """Random aborts among at most 40 that live at a time."""
    rng, coming = random.Random(2), requests()
    with make_llm("dense", ENGINE) as llm:
        engine, live, ended, failed = llm.engine, [], 0, 0
        sizes: list[int] = []
        more = True
        while more or engine.has_work:
            while more and len(live) < 40:
                request = next(coming, None)
                if request is None:
                    more = False
                else:
                    live.append(engine.add(*request))
            if live and rng.random() < 0.3:
                engine.abort(rng.choice(live))
            engine.step()
            for request_id in [i for i in live if engine.is_done(i)]:
                failed += engine.take(request_id).error is not None
                live.remove(request_id)
                ended += 1
                # The last ones alone run in smaller shapes, which are compiled then.
                if more and ended % 500 == 0:
                    sizes.append(process_bytes())
        left = {
            "ended": ended,
            "failed": failed,
            "free_pages": engine.free_pages,
            "pages": engine.blocks.num_total,
            "cached_pages": len(engine.blocks.prefix),
            "swapped_bytes": engine.executor.swapped_bytes,
            "host_pages": engine.blocks.num_host_free,
            "process_bytes": sizes,
        }
    print(json.dumps(left))


if __name__ == "__main__":
    main()
