#!/usr/bin/env python3
"""Logits of two checkpoints of this folder whose attention rotates the first n dimensions of a head.

Gemma's own classes rotate whole heads. Here they run with GPT-NeoX's `apply_rotary_pos_emb`, transformers' rotation of the first dimensions of
a head, and with the frequencies of n dimensions (`own`, as `partial_rotary_factor` has them) or the first n/2 of the whole head's (`stock`).

usage: make_partial_rotation.py    (needs torch, transformers 5, safetensors; writes partial_rotation.safetensors beside itself)
"""
import os
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.gemma2 import modeling_gemma2 as gemma2
from transformers.models.gemma3 import modeling_gemma3 as gemma3
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))


def turned(rotary, n, own):
    """Gives the rotary embedding of a model frequencies of n dimensions."""
    for name in [name for name, _ in rotary.named_buffers() if name.endswith("inv_freq") and "original" not in name]:
        stock = getattr(rotary, name)
        if own:
            # Of a linearly scaled table the factor stays: every stock frequency is a default one over it.
            kind = name.removesuffix("_inv_freq")
            parameters = rotary.config.rope_parameters
            parameters = parameters[kind] if kind in parameters else parameters
            frequencies = 1.0 / (parameters["rope_theta"] ** (torch.arange(0, n, 2).float() / n)) / parameters.get("factor", 1.0)
        else:
            frequencies = stock[: n // 2].clone()
        setattr(rotary, name, frequencies)


out = {}
for name, module in (("gemma2", gemma2), ("gemma3-text", gemma3)):
    folder = os.path.join(here, "checkpoints", name)
    module.apply_rotary_pos_emb = apply_rotary_pos_emb
    with safe_open(os.path.join(folder, "oracle.safetensors"), "pt") as oracle:
        ids = oracle.get_tensor("p33.input_ids").long()
    for n, own in ((12, True), (6, False)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        # The rotation is a function of the module, or of a layer that a kernel may replace.
        turned(model.model.rotary_emb, n, own)
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            logits = model(ids).logits
            model(ids[:, :7], past_key_values=cache, use_cache=True)
        key = f"{name}.{n}.{'own' if own else 'stock'}"
        out[f"{key}.logits"] = logits
        out[f"{key}.k.1"] = cache.layers[1].keys[0].transpose(0, 1).reshape(-1, model.config.head_dim * model.config.num_key_value_heads)
save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(here, "partial_rotation.safetensors"))
for k, v in out.items():
    print(k, tuple(v.shape))
