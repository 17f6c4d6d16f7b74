"""The demo model's corpus: what is trained on, what is held out, and the token stream.

    PYTHONPATH=. python experiments/001_demo_model/corpus.py

writes to `work/`: `train.npy` (uint16 token ids), `manifest.json` and the tokenizer in `model/`.
"""

import hashlib
import json
import lzma
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import sentencepiece as spm
from documents import (
    Document,
    docstring_documents,
    source_documents,
    split_source,
    split_topic,
    stdlib_root,
    topic_documents,
    without_inline_quotes,
)
from train_tokenizer import (
    BOS,
    EOS,
    bytes_per_token,
    check_tokenizer,
    load_tokenizer,
    train_tokenizer,
    write_tokenizer,
)

WORK = Path(__file__).parent / "work"
HELD_OUT_SHARE = {"topic": 0.06, "source": 0.06}
MIN_PARAGRAPH = 60
SEED = 0

# The views of a document that are trained on; one view is one pass over its text.
VIEWS: dict[str, tuple[Callable[[str], list[str]], ...]] = {
    "topic": (
        lambda text: [text],
        lambda text: [text],
        split_topic,
        lambda text: [without_inline_quotes(text)],
        lambda text: split_topic(without_inline_quotes(text)),
        lambda text: split_topic(without_inline_quotes(text)),
    ),
    "docstring": (lambda text: [text], lambda text: [text]),
    "source": (split_source,),
}


def split_documents() -> tuple[list[Document], list[Document]]:
    """The training documents and the held-out ones of the running Python.

    A file is held out by the hash of its path and its docstrings go with it; they are not repeated
    among the held-out documents. A topic is held out by the hash of its name, unless another
    training document repeats one of its paragraphs.
    """
    sources, topics = source_documents(stdlib_root()), topic_documents()
    is_out = {source.origin: _drawn(source) for source in sources}
    pages = [page for page in docstring_documents(sources) if not is_out[page.origin]]
    train_sources = [source for source in sources if not is_out[source.origin]]
    counts = paragraph_counts([*topics, *pages, *train_sources])
    out_topics = [t for t in topics if _drawn(t) and not repeated_paragraphs(t, counts)]
    out_sources = [source for source in sources if is_out[source.origin]]
    out_names = {topic.origin for topic in out_topics}
    kept_topics = [topic for topic in topics if topic.origin not in out_names]
    return kept_topics + pages + train_sources, out_topics + out_sources


def held_out_documents() -> list[tuple[str, str]]:
    """The held-out documents as (name, text), topics first; no text is held twice."""
    return [(document.origin, document.text) for document in split_documents()[1]]


def xz_bits_per_byte(texts: Iterable[str]) -> float:
    """Bits per byte of the concatenated texts under `xz -9e`, container included."""
    data = "".join(texts).encode()
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


def training_texts(documents: Iterable[Document]) -> Iterator[tuple[str, str]]:
    """Each (kind, text) of the mixture: every view of every document, unshuffled."""
    for document in documents:
        for view in VIEWS[document.kind]:
            for text in view(document.text):
                yield document.kind, text


def encode_stream(
    texts: list[str], tokenizer: spm.SentencePieceProcessor, seed: int = SEED
) -> np.ndarray:
    """The texts in random order as one uint16 stream, each between BOS and EOS."""
    order = np.random.default_rng(seed).permutation(len(texts))
    ids = tokenizer.encode([texts[i] for i in order], add_bos=True, add_eos=True)
    return np.concatenate([np.asarray(row, np.uint16) for row in ids])


def paragraphs(text: str) -> set[str]:
    """The paragraphs of at least MIN_PARAGRAPH characters, white space made one space."""
    joined = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return {part for part in joined if len(part) >= MIN_PARAGRAPH}


def paragraph_counts(documents: Iterable[Document]) -> Counter[str]:
    """In how many documents each paragraph stands."""
    return Counter(part for document in documents for part in paragraphs(document.text))


def repeated_paragraphs(document: Document, counts: Counter[str]) -> int:
    """How many paragraphs of a counted document stand in another one as well."""
    return sum(counts[part] > 1 for part in paragraphs(document.text))


def seen_share(train: Iterable[Document], held_out: Iterable[Document]) -> float:
    """The share of the held-out characters (in paragraphs) that training documents also hold."""
    seen = paragraph_counts(train)
    parts = [part for document in held_out for part in paragraphs(document.text)]
    return sum(len(part) for part in parts if part in seen) / sum(len(part) for part in parts)


def main() -> None:
    """Build the corpus, train the tokenizer, and write both with a manifest."""
    train, held_out = split_documents()
    mixture = list(training_texts(train))
    model = train_tokenizer(text for _, text in mixture)
    tokenizer = load_tokenizer(model)
    held_out_texts = [document.text for document in held_out]
    check_tokenizer(tokenizer, held_out_texts)
    write_tokenizer(model, WORK / "model")
    stream = encode_stream([text for _, text in mixture], tokenizer)
    np.save(WORK / "train.npy", stream)
    manifest = {
        "python": platform.python_version(),
        "documents": dict(Counter(document.kind for document in train)),
        "bytes": _bytes_by_kind(train),
        "views": {kind: len(views) for kind, views in VIEWS.items()},
        "tokens": _tokens_by_kind(mixture, tokenizer),
        "tokens_total": len(stream),
        "stream_sha256": hashlib.sha256(stream.tobytes()).hexdigest(),
        "tokenizer_sha256": hashlib.sha256(model).hexdigest(),
        "held_out": {
            "bytes": _bytes_by_kind(held_out),
            "bytes_per_token": bytes_per_token(tokenizer, held_out_texts),
            "xz_bits_per_byte": xz_bits_per_byte(held_out_texts),
            "seen_share": seen_share(train, held_out),
            "sha256": hashlib.sha256("".join(held_out_texts).encode()).hexdigest(),
            "documents": [document.origin for document in held_out],
        },
    }
    (WORK / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest, indent=2))


def _drawn(document: Document) -> bool:
    draw = int.from_bytes(hashlib.sha256(document.origin.encode()).digest()[:8], "big") / 2**64
    return draw < HELD_OUT_SHARE[document.kind]


def _bytes_by_kind(documents: Iterable[Document]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for document in documents:
        sizes[document.kind] += len(document.text.encode())
    return dict(sizes)


def _tokens_by_kind(
    mixture: Iterable[tuple[str, str]], tokenizer: spm.SentencePieceProcessor
) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for kind, text in mixture:
        sizes[kind] += len(tokenizer.encode(text)) + len((BOS, EOS))
    return dict(sizes)


if __name__ == "__main__":
    main()
