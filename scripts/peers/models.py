"""Makes model files of released Gemma 3 shapes with random weights: safetensors with transformers' names and the same numbers as GGUF.

usage: models.py FOLDER SHAPE
FOLDER/SHAPE then holds bf16/ and f16/ (config.json, model.safetensors), bf16.gguf, f16.gguf and q8_0.gguf. llama.cpp's quantiser makes
other formats from bf16.gguf. gemma-3-4b-4-layers has rows of whole blocks in every format, and a vocabulary of 32,768.
"""

import json
import struct
import sys
import zlib
from pathlib import Path

import gguf
import numpy as np

# hidden size, layers, heads, KV heads, head width, FFW width, rows of the embedding
SHAPES = {
    "gemma-3-270m": (640, 18, 4, 1, 256, 2048, 262144),
    "gemma-3-1b": (1152, 26, 4, 1, 256, 6912, 262144),
    "gemma-3-4b-4-layers": (2560, 4, 8, 4, 256, 10240, 32768),
}
CONTEXT, WINDOW, PERIOD, EPS, THETA, THETA_SLIDING = 32768, 512, 6, 1e-6, 1e6, 1e4
NAMES_GGUF = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def config(shape, dtype):
    hidden, layers, heads, kv_heads, head, ffw, vocab = SHAPES[shape]
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": ffw,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPS,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_theta": THETA,
        "rope_local_base_freq": THETA_SLIDING,
        "rope_scaling": None,
        "sliding_window": WINDOW,
        "sliding_window_pattern": PERIOD,
        "query_pre_attn_scalar": head,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
    }


def tensors(shape):
    """transformers' name, GGUF's name and the shape of every weight."""
    hidden, layers, heads, kv_heads, head, ffw, vocab = SHAPES[shape]
    sizes = {
        "self_attn.q_proj": (heads * head, hidden),
        "self_attn.k_proj": (kv_heads * head, hidden),
        "self_attn.v_proj": (kv_heads * head, hidden),
        "self_attn.o_proj": (hidden, heads * head),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (ffw, hidden),
        "mlp.up_proj": (ffw, hidden),
        "mlp.down_proj": (hidden, ffw),
    }
    yield "model.embed_tokens.weight", "token_embd.weight", (vocab, hidden)
    for layer in range(layers):
        for name, short in NAMES_GGUF.items():
            yield f"model.layers.{layer}.{name}.weight", f"blk.{layer}.{short}.weight", sizes.get(name, (hidden,))
    yield "model.norm.weight", "output_norm.weight", (hidden,)


def to_bf16(values):
    """The upper halves of f32, rounded to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def numbers(name, size):
    """The weight as f32 numbers that bf16 holds exactly: the same for one name in every run and every file."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(size, dtype=np.float32)
    values *= 0.02 if len(size) == 2 else 0.1
    return (to_bf16(values).astype(np.uint32) << 16).view(np.float32)


class Safetensors:
    """Writes tensor after tensor of two bytes an element."""

    def __init__(self, folder, shape, dtype, name):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config(shape, name), indent=2))
        header, end = {}, 0
        for tensor, _, size in tensors(shape):
            start, end = end, end + 2 * int(np.prod(size))
            header[tensor] = {"dtype": dtype, "shape": size, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.file = open(folder / "model.safetensors", "wb")
        self.file.write(struct.pack("<Q", len(text)) + text)

    def add(self, values):
        values.tofile(self.file)


def gguf_writer(path, shape, file_type):
    hidden, layers, heads, kv_heads, head, ffw, vocab = SHAPES[shape]
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffw)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(THETA)
    writer.add_sliding_window(WINDOW)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(file_type)
    return writer


def main(folder, shape):
    folder = Path(folder) / shape
    done = folder / "complete"
    if done.exists():
        return
    files = {
        "bf16": Safetensors(folder / "bf16", shape, "BF16", "bfloat16"),
        "f16": Safetensors(folder / "f16", shape, "F16", "float16"),
    }
    kinds = gguf.GGMLQuantizationType
    types = {
        "bf16": (kinds.BF16, gguf.LlamaFileType.MOSTLY_BF16),
        "f16": (kinds.F16, gguf.LlamaFileType.MOSTLY_F16),
        "q8_0": (kinds.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    }
    writers = {name: gguf_writer(folder / f"{name}.gguf", shape, file_type) for name, (_, file_type) in types.items()}
    for name, short, size in tensors(shape):
        values = numbers(name, size)
        files["bf16"].add(to_bf16(values))
        files["f16"].add(values.astype(np.float16))
        for kind, writer in writers.items():
            if len(size) == 1:
                writer.add_tensor(short, values + 1)  # a norm multiplies by 1 + w, and GGUF holds the sum
            else:
                writer.add_tensor(short, gguf.quantize(values, types[kind][0]), raw_dtype=types[kind][0])
    for file in files.values():
        file.file.close()
    for writer in writers.values():
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    done.touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
