"""Keys of `config.json` that belong to no model type: what every reader leaves out or refuses."""

from __future__ import annotations

WITHOUT_EFFECT = frozenset(
    [
        # Token ids and names.
        "begin_suppress_tokens",
        "bos_token_id",
        "decoder_start_token_id",
        "eos_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "suppress_tokens",
        "tokenizer_class",
        # How to generate, which a request says here.
        "bad_words_ids",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "remove_invalid_values",
        "repetition_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        # What to return, and the labels of classifiers.
        "_num_labels",
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "problem_type",
        "return_dict",
        "return_dict_in_generate",
        "task_specific_params",
        # How to compute the same, and training.
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_flash_attn_2_enabled",
        "attention_dropout",
        "attn_implementation",
        "cache_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "gradient_checkpointing",
        "initializer_range",
        "pretraining_tp",
        "tf_legacy_loss",
        "torch_dtype",
        "torchscript",
        "use_bfloat16",
        "use_cache",
        "use_flash_attn",
        # Where the file comes from.
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "auto_map",
        "custom_pipelines",
        "model_type",
        "quantization_config",
        "transformers.js_config",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
    ]
)
"""Keys that do not change the forward of any decoder. `architectures` and `quantization_config`
are looked at before a family reads."""

OFF = (
    "add_cross_attention",
    "cross_attention_hidden_size",
    "is_encoder_decoder",
    "pruned_heads",
    "tie_encoder_decoder",
)
"""Keys of files of older versions of transformers, empty in a decoder; refused otherwise."""
