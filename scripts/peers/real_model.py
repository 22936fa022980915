"""The comparison of real-model: GGUF TOKENIZER TEXT DEVICE.

PyTorch on the CPU, float32, eager attention, the file's weights dequantised.
"""

import math
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

EXAMPLES = "target/release/examples/"
WINDOWS = 4  # of the perplexity, each as long as the logits' prompt
LENGTH = 600  # tokens; the model's window is 512
GREEDY = 32  # tokens of each prompt
GATE = 2e-3  # Of logits between -30 and 30: f32 sums over 18 layers in another order.
PROMPTS = [
    "The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n", "Die Hauptstadt von Deutschland ist",
    "Water boils at", "1, 1, 2, 3, 5, 8,", "To be, or not to be,", "吾輩は猫である。", "The chemical formula of water is", "Dear Sir or Madam,\n\n",
]
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "post_ffw_norm": "post_feedforward_layernorm",
}


def name_of(tensor):
    """transformers' name of a tensor of the file."""
    if tensor == "token_embd.weight":
        return "model.embed_tokens.weight"
    if tensor == "output_norm.weight":
        return "model.norm.weight"
    _, layer, rest = tensor.split(".", 2)
    return f"model.layers.{layer}.{LAYER[rest.removesuffix('.weight')]}.weight"


def load(path):
    """The file's model. llama.cpp's converter stores norms with one added."""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.get_field("gemma3." + key).contents()
    state = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        state[name_of(tensor.name)] = torch.from_numpy(values - 1 if "norm" in tensor.name else values.copy())
    vocabulary, width = state["model.embed_tokens.weight"].shape
    config = Gemma3TextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"), num_attention_heads=field("attention.head_count"),
        num_key_value_heads=field("attention.head_count_kv"), head_dim=field("attention.key_length"),
        query_pre_attn_scalar=field("attention.key_length"), sliding_window=field("attention.sliding_window"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"), max_position_embeddings=field("context_length"),
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": field("rope.freq_base")},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
        attn_implementation="eager", tie_word_embeddings=True, bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )
    model = Gemma3ForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def run(example, model, device, *arguments):
    """An example's stdout."""
    command = [EXAMPLES + example, "--model", model, "--device", device, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def ours(model, device, *arguments):
    """Tokens and logits of the example `logits`."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "logits.safetensors")
        run("logits", model, device, *arguments, "--out", out)
        with safe_open(out, "pt") as file:
            return file.get_tensor("tokens").tolist(), file.get_tensor("logits")


@torch.inference_mode()
def greedy(model, tokenizer, prompt):
    """The likeliest continuation, and the smallest distance to the second likeliest token on the way."""
    tokens, cache, margin, said = torch.tensor([tokenizer.encode(prompt).ids]), None, math.inf, []
    while len(said) < GREEDY:
        out = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, best = out.past_key_values, out.logits[0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        if int(best.indices[0]) == 1:
            break
        said.append(int(best.indices[0]))
        tokens = best.indices[None, :1]
    return tokenizer.decode(said), margin


def loss(logits, tokens):
    """The sum of -log p of each token after the first."""
    rows = torch.log_softmax(logits[:-1].double(), -1)
    return -float(rows.gather(1, torch.tensor(tokens[1:])[:, None]).sum())


def main(path, tokenizer, text, device):
    model, tokenizer = load(path), Tokenizer.from_file(tokenizer)
    failed = []

    def report(what, good):
        print(("ok      " if good else "WRONG   ") + what, flush=True)
        if not good:
            failed.append(what)

    with open(text, encoding="utf-8-sig") as file:
        all_tokens = tokenizer.encode(file.read()).ids
    with tempfile.TemporaryDirectory() as folder:
        short = os.path.join(folder, "text")
        with open(short, "w", encoding="utf-8") as file:
            file.write(open(text, encoding="utf-8-sig").read())
        found, _ = ours(path, device, "--text", "@" + short, "--first", str(LENGTH))
    report(f"token ids of the first {LENGTH} tokens of {text}", found == all_tokens[:LENGTH])

    for prompt in PROMPTS:
        wanted, margin = greedy(model, tokenizer, prompt)
        said = run("generate", path, device, "--prompt", prompt, "--max-tokens", str(GREEDY), "--temperature", "0")
        said = said.removeprefix(prompt).strip("\n")
        # Two tokens that are all but equally likely may change places.
        report(f"{prompt!r} goes on {said[:50]!r} (smallest margin {margin:.3f})", said == wanted.strip("\n") or margin < 2 * GATE)

    losses, count, worst = [0.0, 0.0], 0, 0.0
    for window in range(WINDOWS):
        tokens = [2, *all_tokens[1 + window * (LENGTH - 1) :][: LENGTH - 1]]
        if len(tokens) < 2:
            break
        _, logits = ours(path, device, "--tokens", ",".join(map(str, tokens)))
        with torch.inference_mode():
            wanted = model(torch.tensor([tokens])).logits[0]
        worst = max(worst, float((logits - wanted).abs().max()))
        losses = [losses[0] + loss(logits, tokens), losses[1] + loss(wanted, tokens)]
        count += len(tokens) - 1
    report(f"largest difference of logits {worst:.2e}, in windows of {LENGTH} tokens", worst < GATE)
    perplexity = [math.exp(total / count) for total in losses]
    close = abs(math.log(perplexity[0] / perplexity[1])) < 1e-4
    report(f"perplexity of {count} tokens {perplexity[0]:.4f}, transformers {perplexity[1]:.4f}", close)
    print(f"{len(failed)} of {len(PROMPTS) + 3} comparisons failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
