"""Makes model files of released Gemma 3 shapes with random weights: safetensors with transformers' names and the same numbers as GGUF.

usage: models.py FOLDER SHAPE
FOLDER/SHAPE then holds bf16/ and f16/ (config.json, model.safetensors), bf16.gguf, f16.gguf and q8_0.gguf. llama.cpp's quantiser makes
other formats from bf16.gguf. gemma-3-4b-4-layers has rows of whole blocks in every format, and a vocabulary of 32,768. Of gemma-4-e2b
there is q4_k.gguf alone, as people have it: matrices in Q4_K, tables in Q6_K, which the head is too.
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
# The same of Gemma 4 E2B, then the head width of full layers, columns of a layer's table, and layers without keys of their own, whose
# FFW is twice as wide.
E2B = (1536, 35, 8, 1, 256, 6144, 262144, 512, 256, 20)
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


def random_blocks(kind, size):
    """Rows of random blocks, each block one of 1,024."""
    rows, columns = size
    rng = np.random.default_rng(1)
    # Scales that leave the weights within about ±0.05.
    small = {"Q4_K": (2e-5, [("d", "<f2", 2), ("rest", "u1", 140)]), "Q6_K": (1e-5, [("rest", "u1", 208), ("d", "<f2", 1)])}
    scale, fields = small[kind.name]
    blocks = np.zeros(1024, dtype=fields)
    blocks["rest"] = rng.integers(0, 256, blocks["rest"].shape, dtype=np.uint8)
    blocks["d"] = scale
    data = np.resize(blocks.view(np.uint8), rows * columns // 256 * blocks.itemsize)
    return data.reshape(rows, -1)


def tensors_of_e2b():
    """GGUF's name, the shape and the format of every weight."""
    hidden, layers, heads, kv_heads, head, ffw, vocab, full_head, table, shared = E2B
    yield "token_embd", (vocab, hidden), "Q6_K"
    yield "per_layer_token_embd", (vocab, layers * table), "Q6_K"
    yield "per_layer_model_proj", (layers * table, hidden), "F16"
    yield "per_layer_proj_norm", (table,), "F32"
    yield "rope_freqs", (full_head // 2,), "F32"
    for layer in range(layers):
        width = full_head if (layer + 1) % 5 == 0 else head
        inner = ffw if layer < layers - shared else 2 * ffw
        matrices = {"attn_q": (heads * width, hidden), "attn_output": (hidden, heads * width)}
        if layer < layers - shared:
            matrices |= {"attn_k": (kv_heads * width, hidden), "attn_v": (kv_heads * width, hidden)}
        matrices |= {"ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}
        matrices |= {"inp_gate": (table, hidden), "proj": (hidden, table)}
        for name, size in matrices.items():
            yield f"blk.{layer}.{name}", size, "Q4_K"
        norms = ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm"]
        for name, size in {**dict.fromkeys(norms, hidden), "attn_q_norm": width, "attn_k_norm": width, "layer_output_scale": 1}.items():
            yield f"blk.{layer}.{name}", (size,), "F32"
    yield "output_norm", (hidden,), "F32"


def write_e2b(path):
    hidden, layers, heads, kv_heads, head, ffw, vocab, full_head, table, shared = E2B
    writer = gguf.GGUFWriter(path, "gemma4")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length([ffw if layer < layers - shared else 2 * ffw for layer in range(layers)])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    for name, width in {"": full_head, "_swa": head}.items():
        writer.add_uint32(f"gemma4.attention.key_length{name}", width)
        writer.add_uint32(f"gemma4.attention.value_length{name}", width)
        writer.add_uint32(f"gemma4.rope.dimension_count{name}", width)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(THETA)
    writer.add_float32("gemma4.rope.freq_base_swa", THETA_SLIDING)
    writer.add_sliding_window(WINDOW)
    writer.add_array("gemma4.attention.sliding_window_pattern", [(layer + 1) % 5 != 0 for layer in range(layers)])
    writer.add_uint32("gemma4.attention.shared_kv_layers", shared)
    writer.add_uint32("gemma4.embedding_length_per_layer_input", table)
    writer.add_float32("gemma4.final_logit_softcapping", 30.0)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    for name, size, kind in tensors_of_e2b():
        kind = gguf.GGMLQuantizationType[kind]
        if kind.name == "F32":
            values = np.ones(size, dtype=np.float32)
        elif kind.name == "F16":
            values = numbers(name, size).astype(np.float16)
        else:
            values = random_blocks(kind, size)
        writer.add_tensor(f"{name}.weight", values, raw_dtype=kind)
    write(writer)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(folder, shape):
    folder = Path(folder) / shape
    done = folder / "complete"
    if done.exists():
        return
    if shape == "gemma-4-e2b":
        folder.mkdir(parents=True, exist_ok=True)
        write_e2b(folder / "q4_k.gguf")
        done.touch()
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
        write(writer)
    done.touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
