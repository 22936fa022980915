"""The transformers side of bench-peers: FOLDER PROMPTS GENERATED prints one JSON object. PyTorch on the CPU, weights as stored."""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def measure(model, prompt, generated):
    """Tokens per second of the prompt and of what follows it."""
    tokens = torch.tensor([[(i * 7919 + 17) % model.config.vocab_size for i in range(prompt)]])
    start = time.perf_counter()
    out = model(tokens, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1:].argmax(-1)
    first = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(generated):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
    return prompt / first, generated / (time.perf_counter() - start)


def main(folder, prompts, generated):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    measure(model, 32, 2)
    result = {}
    for i, prompt in enumerate(int(p) for p in prompts.split(",")):
        prefill, decode = measure(model, prompt, int(generated) if i == 0 else 1)
        result[f"prefill {prompt}"] = prefill
        if i == 0:
            result["decode"] = decode
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
