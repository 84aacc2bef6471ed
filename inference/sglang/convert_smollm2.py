"""GGUF to what SGLang reads: config.json, bf16 safetensors, tokenizer.json; and our chat template, because
the model's own has no place for tools.

``python convert_smollm2.py MODEL.gguf FOLDER``, run by the interpreter of SGLang's environment (it has
gguf, torch, safetensors and tokenizers; Tidegate's does not). Llama architecture only.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import gguf
import torch  # type: ignore[import-not-found]  # only in SGLang's environment
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
"""llama.cpp's tensor names outside the blocks, as transformers calls them."""
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
CONTROL_TOKEN = 3
"""gguf's token type of special tokens."""


def renamed(name: str) -> str:
    """transformers' name of the GGUF tensor ``name``. Raises KeyError for one this model has not."""
    if block := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
        return f"model.layers.{block[1]}.{BLOCK[block[2]]}.weight"
    return TOP[name.removesuffix(".weight")] + ".weight"


def weights(reader: Any, heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    """All tensors in bf16. llama.cpp interleaves the rotary halves of q and k; this undoes it."""
    found = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        turns = {"attn_q": heads, "attn_k": kv_heads}.get(tensor.name.split(".")[-2])
        if turns is not None:
            rows, columns = values.shape
            values = values.reshape(turns, rows // turns // 2, 2, columns).swapaxes(1, 2)
            values = values.reshape(rows, columns)
        found[renamed(tensor.name)] = torch.from_numpy(values.copy()).to(torch.bfloat16).contiguous()
    return found


def config(field: Any, tied: bool) -> dict[str, Any]:
    """config.json of a Llama by the ``llama.*`` fields."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"),
        "num_attention_heads": field("llama.attention.head_count"),
        "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "rms_norm_eps": field("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": field("llama.rope.freq_base"),
        "vocab_size": field("llama.vocab_size"),
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    }


def tokenizer(field: Any) -> Tokenizer:
    """The byte-level BPE that gguf calls ``smollm``: single digits first, then GPT-2's pattern."""
    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ", 1)) for pair in field("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    types = field("tokenizer.ggml.token_type")
    made.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == CONTROL_TOKEN
        ]
    )
    return made


def convert(source: Path, target: Path) -> None:
    """Writes all files of the model into ``target``."""
    reader = gguf.GGUFReader(source)

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    tensors = weights(reader, field("llama.attention.head_count"), field("llama.attention.head_count_kv"))
    settings = config(field, tied="lm_head.weight" not in tensors)
    tokens = field("tokenizer.ggml.tokens")
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    tokenizer(field).save(str(target / "tokenizer.json"))
    eos = tokens[settings["eos_token_id"]]
    template = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[settings["bos_token_id"]],
        "eos_token": eos,
        "pad_token": tokens[settings["pad_token_id"]],
        "unk_token": tokens[field("tokenizer.ggml.unknown_token_id")],
        "model_max_length": settings["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE.read_text(),
    }
    # What its authors recommend (model card). SGLang takes them where a request says nothing: at
    # temperature 1 a model this small wanders off and rarely ends an answer.
    generation = {"do_sample": True, "temperature": 0.2, "top_p": 0.9}
    generation |= {key: settings[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, content in (
        ("config.json", settings),
        ("tokenizer_config.json", template),
        ("generation_config.json", generation),
    ):
        (target / name).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
