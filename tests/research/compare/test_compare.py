"""Whole comparisons of small models, against dense logits in numpy and against themselves."""

from dataclasses import replace

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.edit import edit_layers
from ferrum_jax.research.compare import SavedLogprobs, compare, write_logprobs
from ferrum_jax.research.compare.settings import differences, headline, settings_of
from ferrum_jax.research.compare.side import ModelSide
from tests.research.compare.conftest import CONFIG, WEIGHTS, make_documents, make_llm
from tests.research.compare.test_rows import log_softmax
from tests.runtime.models import VOCAB

QUICK = {"parting": False, "resamples": 20}


def dense(llm, ids):
    """float64 log-probabilities of the tokens after the first, from one dense forward."""
    return log_softmax(llm.logits(ids)[:-1])


def test_a_model_against_itself_is_exactly_nothing(llm, documents):
    found = compare(llm, llm, documents, resamples=20)
    for name in ("ln_ratio", "difference", "kld", "delta_p", "delta_p_rms"):
        assert (getattr(found, name).value, getattr(found, name).error) == (0, 0), name
    for name in ("ratio", "same_top", "correlation"):
        assert (getattr(found, name).value, getattr(found, name).error) == (1, 0), name
    assert not found.tokens.kld.any()
    assert not found.tokens.delta_p.any()
    assert found.ppl_a == found.ppl_b
    assert found.worst == ()
    assert found.differences == ()
    assert not np.asarray(found.parting.errors).any()
    assert found.parting.first is None


def test_an_equal_model_with_another_engine_is_exactly_nothing(llm, documents):
    found = compare(llm, make_llm(), documents, **QUICK)
    assert not found.tokens.kld.any()
    np.testing.assert_array_equal(found.tokens.nll_a, found.tokens.nll_b)


def test_cached_prefixes_are_no_difference(documents):
    """The second side finds the pages of the first, and must compute its tokens all the same."""
    llm = make_llm(prefix_caching=True)
    found = compare(llm, llm, documents + documents[:1], **QUICK)
    assert found.num_tokens == sum(len(ids) - 1 for ids in documents) + 22
    assert found.tokens.kld.max() < 1e-9


def test_batch_invariant_engines_agree_bitwise(documents):
    engines = {"max_num_batched_tokens": 16}, {"max_num_batched_tokens": 8, "max_num_seqs": 2}
    sides = [make_llm(batch_invariant=True, **engine) for engine in engines]
    assert not compare(*sides, documents, **QUICK).tokens.kld.any()


def test_every_token_agrees_with_dense_forwards(llm, other, documents):
    found = compare(llm, other, documents, **QUICK)
    tokens = found.tokens
    assert found.num_tokens == len(tokens) == sum(len(ids) - 1 for ids in documents)
    for number, ids in enumerate(documents):
        mine = tokens.document == number
        log_a, log_b = dense(llm, ids), dense(other, ids)
        every = np.arange(len(ids) - 1)
        kld = (np.exp(log_a) * (log_a - log_b)).sum(axis=1)
        np.testing.assert_array_equal(tokens.position[mine], every + 1)
        np.testing.assert_array_equal(tokens.token[mine], ids[1:])
        np.testing.assert_allclose(tokens.kld[mine], kld, rtol=1e-3)
        np.testing.assert_allclose(tokens.nll_a[mine], -log_a[every, ids[1:]], atol=2e-5)
        np.testing.assert_allclose(tokens.nll_b[mine], -log_b[every, ids[1:]], atol=2e-5)
        np.testing.assert_array_equal(tokens.top_a[mine], log_a.argmax(axis=1))
        np.testing.assert_array_equal(tokens.top_b[mine], log_b.argmax(axis=1))
        np.testing.assert_allclose(tokens.p_top_b[mine], np.exp(log_b.max(axis=1)), rtol=1e-4)
    assert found.kld.value > 1e-3
    assert found.kld.value == pytest.approx(tokens.kld.mean(), rel=1e-6)


def test_the_sides_are_not_exchanged(llm, other, documents):
    there, back = (compare(*pair, documents, **QUICK) for pair in ((llm, other), (other, llm)))
    assert there.ppl_a.value == pytest.approx(back.ppl_b.value, rel=1e-6)
    assert there.ln_ratio.value == pytest.approx(-back.ln_ratio.value, rel=1e-6)
    assert there.delta_p.value == pytest.approx(-back.delta_p.value, rel=1e-6)
    assert there.kld.value != pytest.approx(back.kld.value, rel=1e-6)


def test_the_worst_tokens_are_those_of_the_largest_divergence(llm, other, documents):
    found = compare(llm, other, documents, worst=3, **QUICK)
    assert [token.kld for token in found.worst] == sorted(found.tokens.kld.tolist())[:-4:-1]
    worst = found.worst[0]
    ids, at = documents[worst.document], worst.position
    log_a, log_b = dense(llm, ids)[at - 1], dense(other, ids)[at - 1]
    assert worst.token == str(ids[at])
    assert worst.context.split() == [str(i) for i in ids[max(0, at - 16) : at]]
    assert worst.p_a == pytest.approx(np.exp(log_a[ids[at]]), rel=1e-4)
    assert worst.p_b == pytest.approx(np.exp(log_b[ids[at]]), rel=1e-4)
    assert (worst.top_a, worst.top_b) == (str(log_a.argmax()), str(log_b.argmax()))
    assert worst.p_top_a == pytest.approx(np.exp(log_a.max()), rel=1e-4)


@pytest.mark.parametrize("rows", [1, 30])
def test_groups_do_not_matter(llm, other, documents, rows):
    whole = compare(llm, other, documents, **QUICK).tokens
    parts = compare(llm, other, documents, max_held_bytes=4 * VOCAB * rows, **QUICK).tokens
    np.testing.assert_allclose(parts.kld, whole.kld, rtol=1e-3)
    np.testing.assert_allclose(parts.nll_b, whole.nll_b, atol=1e-5)


def test_chunks_do_not_matter(llm, documents):
    """Engines of other steps: what is left is rounding in another order."""
    found = compare(llm, make_llm(max_num_batched_tokens=32, max_num_seqs=2), documents, **QUICK)
    assert found.tokens.kld.max() < 1e-9
    assert found.same_top.value == 1


def test_an_edit_is_a_change_of_weights(llm, documents):
    """Without the MLP of layer 1, by an edit and by weights of zero."""
    layers = list(WEIGHTS.layers)
    mlp = layers[1].mlp
    layers[1] = layers[1].replace(mlp=mlp.replace(down=0 * mlp.down))
    zeroed = make_llm(WEIGHTS.replace(layers=tuple(layers)))
    edited = (llm, fj.edits.ablate_mlp([1]))
    assert compare(edited, zeroed, documents, **QUICK).tokens.kld.max() < 1e-9
    found = compare(llm, edited, documents, **QUICK)
    assert found.kld.value > 1e-2
    assert found.differences == ("edits none -> mlp_out: Fill, constant 0., layer 1",)


def test_what_differs_is_named(llm):
    weights = init_params(CONFIG, seed=3, dtype="bfloat16")
    changed = make_llm(weights, edit_layers(CONFIG, activation="relu"), kv_dtype="int8")
    sides = ModelSide(llm), ModelSide(changed, fj.edits.ablate_mlp([1]))
    settings = settings_of(*sides)
    dtype, digest, config, edits = differences(*sides, settings)
    assert dtype == "dtype float32 -> bfloat16"
    assert digest == f"weights {settings[0]['weights'][:12]} -> {settings[1]['weights'][:12]}"
    assert config == "layers 0-1: activation silu -> relu; kv_dtype int8"
    assert edits == "edits none -> mlp_out: Fill, constant 0., layer 1"
    assert settings[1]["engine"]["kv_dtype"] == "int8"
    assert headline(settings[0]) == f"llama, 2 layers of 64, float32, {digest.split(' -> ')[0]}"


def test_only_tokens_with_enough_context_are_scored(llm, other):
    documents = make_documents(23, 9)
    whole = compare(llm, other, documents, **QUICK).tokens
    found = compare(llm, other, documents, min_context=8, **QUICK)
    kept = whole.position >= 8
    assert found.num_tokens == kept.sum() == 16
    np.testing.assert_allclose(found.tokens.kld, whole.kld[kept], rtol=1e-3)
    np.testing.assert_array_equal(found.tokens.token, whole.token[kept])


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"top_k": 40}])
def test_saved_log_probabilities_are_a_side(tmp_path, llm, other, documents, options):
    path = tmp_path / "a.safetensors"
    write_logprobs(
        path, documents, map(llm.logits, documents), vocab_size=VOCAB, name="me", **options
    )
    same = compare(path, llm, **QUICK)
    assert same.tokens.kld.max() < (1e-6 if options.get("dtype") else 1e-9)
    assert same.same_top.value == 1
    assert np.abs(same.tokens.delta_p).max() < 1e-6
    direct = compare(llm, other, documents, **QUICK)
    through = compare(SavedLogprobs(path), other, documents[::-1], **QUICK)
    backward = compare(other, path, documents, **QUICK)
    assert through.ln_ratio.value == pytest.approx(direct.ln_ratio.value, abs=1e-5)
    assert backward.ln_ratio.value == pytest.approx(-direct.ln_ratio.value, abs=1e-5)
    assert through.same_top.value == direct.same_top.value
    assert ("rounding gives KLDs" in str(same)) == (options.get("dtype") == "float16")
    if "top_k" in options:
        assert through.kld_is_bound
        assert 0 < through.kld.value < direct.kld.value
    else:
        assert not through.kld_is_bound
        assert through.kld.value == pytest.approx(direct.kld.value, rel=1e-3)


def test_two_files(tmp_path, llm, other, documents):
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path, model in zip(paths, (llm, other), strict=True):
        write_logprobs(
            path, documents, map(model.logits, documents), vocab_size=VOCAB, name=path.stem
        )
    direct, through = compare(llm, other, documents, **QUICK), compare(*paths, **QUICK)
    assert through.kld.value == pytest.approx(direct.kld.value, rel=1e-3)
    assert through.settings[0]["name"] == "a"
    assert compare(paths[0], paths[0], **QUICK).kld.value == 0


def test_what_is_refused(llm, documents):
    def refused(message, a=llm, b=llm, texts=documents, **options):
        with pytest.raises(fj.RequestError, match=message):
            compare(a, b, texts, **options)

    refused("a is 3; give an fj.LLM", a=3)
    refused("b is .*; give an fj.LLM", b=(llm, "edits"))
    refused("a is 'nowhere'|nowhere holds no saved", a="nowhere")
    refused("there are no texts", texts=[])
    refused("texts is 5", texts=5)
    refused("texts is None; give texts", texts=None)
    refused("document 0: the prompt has no tokens", texts=[[]])
    refused("document 1 has 1 token, and min_context is 1", texts=[[1, 2], [3]])
    refused("document 0: .*token id 600; the vocabulary has ids 0 to 599", texts=[[1, 600]])
    refused("document 0 has 65 tokens and side a takes 64", texts=[[1] * 65])
    refused("min_context is 0", min_context=0)
    refused("max_held_bytes is 0", max_held_bytes=0)
    refused("resamples is 1", resamples=1)
    refused("worst is -1", worst=-1)
    refused("parting is -1", parting=-1.0)
    refused("both sides are named 'x'", names=("x", "x"))
    refused("names is", names="a")


def test_other_vocabularies_are_refused(llm):
    config = replace(CONFIG, vocab_size=VOCAB + 8)
    with pytest.raises(fj.RequestError, match="a has 600 ids and that of b 608"):
        compare(llm, make_llm(init_params(config, seed=0), config), [[1, 2]])


def test_texts_that_a_file_lacks_are_refused(tmp_path, llm):
    path = tmp_path / "a.safetensors"
    write_logprobs(path, [[1, 2, 3]], [llm.logits([1, 2, 3])], vocab_size=VOCAB, name="a", top_k=2)
    with pytest.raises(
        fj.RequestError, match=r"document 0 \(2 tokens\) is not in .*a\.safetensors"
    ):
        compare(path, llm, [[1, 2]])
    write_logprobs(path, [[1, 2, 3]], [llm.logits([1, 2, 3])], vocab_size=VOCAB, name="a")
    with pytest.raises(fj.RequestError, match="document 0 is a text and no side has a tokenizer"):
        compare(path, path, ["text"])


def test_two_files_with_the_likeliest_ids_are_refused(tmp_path, llm):
    path = tmp_path / "a.safetensors"
    write_logprobs(path, [[1, 2, 3]], [llm.logits([1, 2, 3])], vocab_size=VOCAB, name="a", top_k=2)
    with pytest.raises(fj.RequestError, match="top_k=None"):
        compare(path, path)


class Spelling:
    """A tokenizer of letters, each a number of places further on."""

    vocab_size = VOCAB
    special_ids = frozenset()

    def __init__(self, shift):
        self.shift = shift

    def encode(self, text):
        return [ord(c) + self.shift for c in text]

    def decode(self, ids, *, skip_special_tokens=True):
        return "".join(chr(i - self.shift) for i in ids)

    def token_text(self, token_id):
        return f"<{chr(token_id - self.shift)}>"


def test_texts_are_spelled_by_the_tokenizers(llm, other):
    one = fj.LLM(CONFIG, WEIGHTS, Spelling(1), engine=llm.engine_config)
    found = compare(one, other, ["some text", "ab"], **QUICK)
    assert found.tokens.token.tolist() == [ord(c) + 1 for c in "ome textb"]
    worst = found.worst[0]
    text = ("some text", "ab")[worst.document]
    assert worst.token == f"<{text[worst.position]}>"
    assert worst.context == text[: worst.position]
    two = fj.LLM(CONFIG, WEIGHTS, Spelling(2), engine=llm.engine_config)
    with pytest.raises(fj.RequestError, match="spell document 0 differently, from token 0"):
        compare(one, two, ["some text"], **QUICK)


def test_the_bar_shows_tokens_and_is_off_by_default(llm, documents, capsys):
    compare(llm, llm, documents[:2], **QUICK)
    assert capsys.readouterr().err == ""
    compare(llm, llm, documents[:2], progress=True, **QUICK)
    assert "32/32" in capsys.readouterr().err
