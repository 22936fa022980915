#!/usr/bin/env python3
"""Adapters as PEFT writes them for checkpoints of this folder, and the logits that PEFT computes with them.

usage: make_adapters.py    (needs torch, transformers 5, peft 0.21; writes adapters/<name>/ beside itself)

Each folder holds `adapter_config.json` and `adapter_model.safetensors` as `save_pretrained` leaves them, values in bf16, and
`expected.safetensors`: `input_ids` [12], `logits` [12, V] and `base` [12, V], those of the model without the adapter. The adapter is read
again by `PeftModel.from_pretrained` before it is run.
"""
import json, os, shutil, warnings
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
A = dict(task_type="CAUSAL_LM", r=2, lora_alpha=3)
ADAPTERS = {
    "gemma3n-all": ("gemma3n", dict(target_modules="all-linear")),
    "gemma4-e2b-all": ("gemma4-e2b", dict(target_modules="all-linear")),
    "gemma4-moe-experts": ("gemma4-moe", dict(target_modules=["q_proj", "proj"],
                                            target_parameters=["experts.gate_up_proj", "experts.down_proj"])),
    "gemma2-patterns": ("gemma2", dict(target_modules=["q_proj", "v_proj", "up_proj"], use_rslora=True,
                                     rank_pattern={"layers.1.self_attn.q_proj": 3, "q_proj": 1},
                                     alpha_pattern={r"model\.layers\.[02]\..*": 7, "up_proj": 5, "layers.0.mlp.up_proj": 99})),
    "gemma2-bias": ("gemma2", dict(target_modules=["k_proj", "down_proj"], lora_bias=True, layers_to_transform=[0, 3])),
    "gemma3-dora": ("gemma3-text", dict(target_modules=["q_proj", "o_proj", "down_proj"], use_dora=True)),
    "gemma3-embeddings": ("gemma3-text", dict(target_modules=["embed_tokens", "lm_head", "gate_proj"], init_lora_weights="gaussian")),
}


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits[0].float()


for name, (base, options) in ADAPTERS.items():
    folder = os.path.join(here, "checkpoints", base)
    load = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with safe_open(os.path.join(folder, "oracle.safetensors"), "pt") as oracle:
        ids = oracle.get_tensor("p33.input_ids")[:, :12].long()
    model = load()
    plain = logits(model, ids)
    torch.manual_seed(len(name))
    model = get_peft_model(model, LoraConfig(**A, **options)).eval()
    for key, value in model.named_parameters():
        if "lora_magnitude" in key:
            value.data *= 1.0 + 0.2 * torch.rand_like(value)
        elif "lora_" in key:
            scale = 0.02 if "altup" in key else 0.15
            value.data = (scale * torch.randn_like(value)).to(torch.bfloat16).float()
    out = os.path.join(here, "adapters", name)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    os.remove(os.path.join(out, "README.md"))
    file = os.path.join(out, "adapter_model.safetensors")
    tensors = {k: v if "base_layer" in k or "magnitude" in k else v.to(torch.bfloat16) for k, v in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    path = os.path.join(out, "adapter_config.json")
    config = json.load(open(path))
    config["base_model_name_or_path"] = base
    json.dump(config, open(path, "w"), indent=1, sort_keys=False)
    again = PeftModel.from_pretrained(load(), out).eval()
    found = logits(again, ids)
    save_file({"input_ids": ids[0].int(), "logits": found.contiguous(), "base": plain.contiguous()}, os.path.join(out, "expected.safetensors"))
    shapes = {k.replace("base_model.model.model.", ""): tuple(v.shape) for k, v in list(tensors.items())[:3]}
    print(name, len(tensors), "tensors", os.path.getsize(file), "bytes, differs by", float((found - plain).abs().max()), shapes)
