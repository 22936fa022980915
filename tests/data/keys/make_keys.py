"""Makes defaults.json and logits.json beside this file: what transformers has for absent keys, and the last row of logits of
checkpoints in ../checkpoints whose configurations lose or gain keys. Run: python make_keys.py"""

import json
import os
import pathlib
import shutil
import tempfile

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

HERE = pathlib.Path(__file__).parent
FAMILIES = ["gemma", "gemma2", "vaultgemma", "gemma3_text", "gemma3n_text", "gemma4_text", "gemma4_unified_text",
            "embedding_gemma2_text"]
KEYS = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "query_pre_attn_scalar",
        "attn_logit_softcapping", "final_logit_softcapping", "sliding_window", "layer_types", "rope_parameters",
        "num_kv_shared_layers", "hidden_size_per_layer_input", "vocab_size_per_layer_input", "altup_num_inputs",
        "altup_active_idx", "altup_correct_scale", "laurel_rank", "activation_sparsity_pattern", "attention_k_eq_v",
        "enable_moe_block", "embedding_dim", "eos_token_id", "bos_token_id", "pad_token_id"]
JUNK = {"attn_implementation": "sdpa", "pretraining_tp": 1, "model_max_length": 4096, "num_logits_to_keep": 0,
        "cache_implementation": "hybrid", "use_cache": False, "gradient_checkpointing": True, "unsloth_version": "2025.8.1",
        "boi_token_index": 255999, "mm_tokens_per_image": 256, "embd_pdrop": 0.1, "trained_by": "someone"}
# Checkpoint, keys taken out, keys put in.
QUESTIONS = {
    "underscored pattern without layer_types": ("gemma3-text", ["sliding_window_pattern"], {"_sliding_window_pattern": 3}),
    "pattern of three": ("gemma3-text", [], {"sliding_window_pattern": 3}),
    "harmless keys": ("gemma3-text", [], JUNK),
    "no bases": ("gemma3-text", ["rope_theta", "rope_local_base_freq", "rope_scaling"], {}),
    "new spelling without bases": ("gemma3-text", ["rope_theta", "rope_local_base_freq", "rope_scaling"],
                                   {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}),
    "gemma 2 without softcaps": ("gemma2", ["attn_logit_softcapping", "final_logit_softcapping", "rope_theta"], {}),
    "keys of the released 3n": ("gemma3n", [], {"altup_lr_multiplier": 1.0, "query_pre_attn_scalar": 256,
                                                "_sliding_window_pattern": 3}),
}


def plain(value):
    return json.loads(json.dumps(value, default=str))


def defaults(family):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps({"model_type": family}))
        config = AutoConfig.from_pretrained(folder)
    found = config.to_dict()
    return {key: plain(found[key]) for key in KEYS if key in found}


def logits(checkpoint, without, more):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(HERE.parent / "checkpoints" / checkpoint, folder, dirs_exist_ok=True)
        path = pathlib.Path(folder, "config.json")
        config = {key: value for key, value in json.loads(path.read_text()).items() if key not in without} | more
        path.write_text(json.dumps(config))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokens = [2] + [5 + (i * 37) % 120 for i in range(24)]
        with torch.no_grad():
            row = model(torch.tensor([tokens])).logits[0, -1]
    return {"checkpoint": checkpoint, "without": without, "more": more, "tokens": tokens,
            "logits": [float(f"{x:.6g}") for x in row.tolist()]}


(HERE / "defaults.json").write_text(json.dumps(
    {"transformers": transformers.__version__} | {family: defaults(family) for family in FAMILIES}, indent=1) + "\n")
(HERE / "logits.json").write_text(json.dumps({name: logits(*question) for name, question in QUESTIONS.items()}) + "\n")
