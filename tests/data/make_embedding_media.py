#!/usr/bin/env python3
"""A tiny random EmbeddingGemma 2 with both towers, and what transformers computes of pictures, sounds and texts with it.

usage: make_embedding_media.py    (needs torch, torchvision, transformers 5.24, pillow, safetensors; writes multimodal/embeddinggemma2
beside itself)

Weights are float32, attention is eager. Token ids come from EmbeddingGemma2Processor with the tokenizer of tokenizers/gemma4, to which the
control tokens of pictures and sounds are added. A vector is the mean of all live tokens, of length 1, as sentence-transformers makes it.
"""
import json, math, os, shutil, wave
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np, torch, transformers
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import EmbeddingGemma2Config, EmbeddingGemma2Model, EmbeddingGemma2Processor, PreTrainedTokenizerFast
from transformers.models.embedding_gemma2.video_processing_embedding_gemma2 import EmbeddingGemma2VideoProcessor
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_gemma4 import Gemma4ImageProcessor

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
out = f"{here}/multimodal/embeddinggemma2"
IMAGE, AUDIO = "<|image|>", "<|audio|>"
CONTROL = dict(boi_token="<|image>", eoi_token="<image|>", image_token=IMAGE, boa_token="<|audio>", eoa_token="<audio|>", audio_token=AUDIO)
# No text: the processor lays the media out by itself.
CASES = {
    "picture": dict(text=f"title: none | text: the red planet {IMAGE} seen from afar", images=[("shapes", 150, 97)]),
    "two": dict(text=None, images=[("waves", 33, 120), ("shapes", 48, 48)]),
    "clip": dict(text=f"task: search result | query: {AUDIO}who speaks?", audios=[("chirp", 16000)]),
    "both": dict(text=f"{IMAGE}{AUDIO} together", images=[("waves", 90, 70)], audios=[("noise", 7777)]),
    "text": dict(text="task: search result | query: which planet is red?"),
}


def picture(kind, w, h, seed):
    r = np.random.RandomState(seed)
    y, x = np.mgrid[0:h, 0:w]
    if kind == "waves":
        a = np.stack([127 + 127 * np.sin(x * .7 + y * .13 + c) * np.cos(y * (.21 + .3 * c)) for c in range(3)], -1)
        return Image.fromarray(np.rint(a).astype(np.uint8))
    image = Image.new("RGB", (w, h), tuple(int(v) for v in r.randint(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x0, y0 = int(r.randint(0, w - 1)), int(r.randint(0, h - 1))
        x1, y1, colour = x0 + int(r.randint(1, w // 2)), y0 + int(r.randint(1, h // 2)), tuple(int(v) for v in r.randint(0, 256, 3))
        (draw.ellipse if r.rand() < .5 else draw.rectangle)([x0, y0, x1, y1], fill=colour)
    return image


def sound(kind, n, seed):
    r, t = np.random.RandomState(seed), np.arange(n) / 16000
    a = 0.6 * np.sin(2 * np.pi * (120 * t + 1500 * t * t)) if kind == "chirp" else 0.25 * r.randn(n) * (0.2 + np.abs(np.sin(6 * np.pi * t)))
    return np.clip(np.rint((a + 0.02 * r.randn(n)) * 32767), -32768, 32767).astype(np.int16)


def processor():
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{here}/tokenizers/gemma4/tokenizer.json", bos_token="<bos>", eos_token="<eos>",
                                        pad_token="<pad>", unk_token="<unk>", extra_special_tokens=CONTROL)
    size = dict(patch_size=4, pooling_kernel_size=3, max_soft_tokens=70)
    images, audios = Gemma4ImageProcessor(**size), Gemma4AudioFeatureExtractor()
    return EmbeddingGemma2Processor(audios, images, tokenizer, EmbeddingGemma2VideoProcessor(**size), image_seq_length=70)


def config(tokenizer):
    sliding, full = "sliding_attention", "full_attention"
    rope = {sliding: dict(rope_type="default", rope_theta=10000.0), full: dict(rope_type="default", rope_theta=1000000.0)}
    text = dict(vocab_size=len(tokenizer) + 1, hidden_size=40, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4,
                num_key_value_heads=2, head_dim=12, global_head_dim=20, num_global_key_value_heads=1, max_position_embeddings=512,
                sliding_window=5, sliding_window_pattern=3, hidden_size_per_layer_input=20, embedding_dim=28, rope_parameters=rope)
    vision = dict(model_type="gemma4_vision", hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=2, head_dim=12, patch_size=4, pooling_kernel_size=3, position_embedding_size=212,
                  use_clipped_linears=True, rope_parameters=dict(rope_type="axial", rope_theta=100.0))
    audio = dict(model_type="gemma4_audio", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, subsampling_conv_channels=[128, 4],
                 output_proj_dims=42)
    id = tokenizer.convert_tokens_to_ids
    return EmbeddingGemma2Config(text_config=text, vision_config=vision, audio_config=audio, boi_token_id=id("<|image>"),
                                 eoi_token_id=id("<image|>"), image_token_id=id(IMAGE), boa_token_id=id("<|audio>"),
                                 eoa_token_index=id("<audio|>"), audio_token_id=id(AUDIO), video_token_id=id("<|video|>"))


def weight(name, shape, g):
    """Loud enough that every step matters."""
    normal = lambda mean, spread: torch.randn(shape, generator=g) * spread + mean
    uniform = lambda low, high: torch.rand(shape, generator=g) * (high - low) + low
    leaf = name.split(".")[-1]
    module = name.split(".")[-2]
    if leaf in ("input_min", "output_min"): return -uniform(1.4, 2.6)
    if leaf in ("input_max", "output_max"): return uniform(1.4, 2.6)
    if leaf == "layer_scalar": return uniform(0.55, 1.25)
    if leaf == "per_dim_scale": return normal(0, 0.7)
    if leaf == "position_embedding_table": return normal(0, 0.5)
    if leaf == "bias": return normal(0, 0.25)
    if len(shape) == 1:
        return normal(0.8, 0.2).clamp(min=0.05) if module in ("q_norm", "k_norm") else normal(1.0, 0.3)
    if module == "embed_tokens": return normal(0, 1 / math.sqrt(shape[1]))
    gain = 1.5 if any(part in name for part in ("q_proj", "k_proj", "patch_embedder", "conv.weight")) else 1.1
    return normal(0, gain / math.sqrt(math.prod(shape[1:])))


def make(config):
    g = torch.Generator().manual_seed(23)
    model = EmbeddingGemma2Model(config)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            if tensor.is_floating_point() and "inv_freq" not in name and "embed_scale" not in name:
                tensor.copy_(weight(name, tensor.shape, g))
    model.save_pretrained(out)
    model, info = EmbeddingGemma2Model.from_pretrained(out, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@torch.no_grad()
def run(model, inputs):
    rec = {}
    def keep(name): return lambda module, args, output: rec.setdefault(name, output)
    hooks = [model.language_model.norm.register_forward_hook(keep("hidden")),
             model.language_model.ple.register_forward_pre_hook(lambda module, args: rec.setdefault("inputs_embeds", args[0].clone())),
             model.embed_vision.register_forward_hook(keep("vision.soft")), model.embed_audio.register_forward_hook(keep("audio.soft"))]
    projected = model(**inputs).last_hidden_state
    for hook in hooks: hook.remove()
    live = inputs["attention_mask"][..., None].float()
    pooled = (projected * live).sum(1) / live.sum(1)
    return rec | dict(projected=projected, pooled=pooled, embedding=pooled / pooled.norm(dim=-1, keepdim=True))


def read(files, kind):
    if kind == "images": return [Image.open(f"{out}/{file}") for file in files] or None
    clips = [np.frombuffer(wave.open(f"{out}/{file}").readframes(1 << 30), np.int16) for file in files]
    return [clip.astype(np.float32) / 32768 for clip in clips] or None


def main():
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(f"{out}/inputs")
    process = processor()
    process.save_pretrained(out)
    for file in ("tokenizer.json", "tokenizer_config.json"): os.remove(f"{out}/{file}")
    model = make(config(process.tokenizer))
    tensors, cases, vectors = {}, [], {}
    for at, (name, case) in enumerate(CASES.items()):
        images = [f"inputs/{name}.{k}.png" for k in range(len(case.get("images", [])))]
        audios = [f"inputs/{name}.{k}.wav" for k in range(len(case.get("audios", [])))]
        for k, (file, (kind, w, h)) in enumerate(zip(images, case.get("images", []))): picture(kind, w, h, 10 * at + k).save(f"{out}/{file}")
        for k, (file, (kind, n)) in enumerate(zip(audios, case.get("audios", []))):
            with wave.open(f"{out}/{file}", "wb") as f:
                f.setnchannels(1), f.setsampwidth(2), f.setframerate(16000), f.writeframes(sound(kind, n, 10 * at + k).tobytes())
        media = {k: v for k, v in dict(images=read(images, "images"), audio=read(audios, "audios")).items() if v}
        if "images" in media: media["images"] = [media["images"]]
        inputs = process(text=case["text"] and [case["text"]], return_tensors="pt", **media)
        found = run(model, inputs)
        tensors |= {f"{name}.{key}": value for key, value in {**inputs, **found}.items() if key not in ("attention_mask", "projected")}
        vectors[name] = found["embedding"]
        options = dict(image_options=dict(max_soft_tokens=70)) if images else {}
        cases.append(dict(name=name, text=case["text"], images=images, audios=audios, n_tokens=inputs["input_ids"].shape[1], **options))
        print(name, cases[-1]["n_tokens"], inputs["input_ids"][0].tolist()[:30])
    away = min((1 - (vectors[a] * vectors[b]).sum()).item() for a in vectors for b in vectors if a < b)
    print(f"smallest 1 - cosine of two cases {away:.3f}, std of hidden {tensors['picture.hidden'].std():.2f}")
    ids = [tensors[f"{name}.input_ids"] for name in ("picture", "text")]
    padded = process.tokenizer.pad(dict(input_ids=[x[0].tolist() for x in ids]), return_tensors="pt", padding_side="left")
    inputs = {**padded, **{k: tensors[f"picture.{k}"] for k in ("pixel_values", "image_position_ids")}}
    beside = run(model, inputs)["embedding"]
    print(f"beside each other {max((1 - (beside[i] * vectors[n][0]).sum()).item() for i, n in enumerate(('picture', 'text'))):.1e}")
    tensors = {k: (v.float() if v.is_floating_point() else v.to(torch.int32)).contiguous() for k, v in tensors.items()}
    save_file(tensors, f"{out}/mm_oracle.safetensors")
    info = dict(transformers=transformers.__version__, torch=torch.__version__, cases=cases)
    json.dump(info, open(f"{out}/mm_oracle.json", "w"), indent=1)


main()
