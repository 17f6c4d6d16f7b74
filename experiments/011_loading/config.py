"""The checkpoint and the ways in which it is loaded, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """A Llama of 1.1 billion parameters, in the shape of TinyLlama."""

    layers: int = 22
    hidden: int = 2048
    ffn: int = 5632
    heads: int = 32
    kv_heads: int = 4
    vocab: int = 32_000
    shards: int = 5
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    cached: tuple[bool, ...] = (False, True)
    """Whether the files lie in the operating system's memory before they are loaded."""
    generated: int = 8
    """tokens, greedy, after loading"""
    bound: float = 1.3
    """Peak memory of loading over the loaded weights that the loader promises not to exceed."""
    seed: int = 0

    def hf_config(self) -> dict:
        """What stands in config.json."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, in the order in which they are dealt out to the shards."""
        kv = self.hidden // self.heads * self.kv_heads
        square, narrow = (self.hidden, self.hidden), (kv, self.hidden)
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab, self.hidden)
        }
        for i in range(self.layers):
            shapes |= {
                f"model.layers.{i}.self_attn.q_proj.weight": square,
                f"model.layers.{i}.self_attn.k_proj.weight": narrow,
                f"model.layers.{i}.self_attn.v_proj.weight": narrow,
                f"model.layers.{i}.self_attn.o_proj.weight": square,
                f"model.layers.{i}.mlp.gate_proj.weight": (self.ffn, self.hidden),
                f"model.layers.{i}.mlp.up_proj.weight": (self.ffn, self.hidden),
                f"model.layers.{i}.mlp.down_proj.weight": (self.hidden, self.ffn),
                f"model.layers.{i}.input_layernorm.weight": (self.hidden,),
                f"model.layers.{i}.post_attention_layernorm.weight": (self.hidden,),
            }
        return shapes | {
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": (self.vocab, self.hidden),
        }
