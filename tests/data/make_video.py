#!/usr/bin/env python3
"""What transformers computes of videos with two checkpoints of multimodal/.

usage: make_video.py    (needs torch, torchvision, transformers 5.24, pillow, safetensors; writes video/ beside itself)

Weights are float32, attention is eager. Token ids, their types and pixels come from Gemma4Processor. The checkpoints
have no tokenizer: theirs is one of letters, with the control tokens at the ids of config.json. The processor gets the
frames that it is to show (do_sample_frames is off) and their times. `sampled` has the frames that Gemma4VideoProcessor
takes of longer videos.
"""
import json, os, shutil
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np, torch, transformers
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers
from tokenizers.decoders import Fuse, Replace, Sequence
from transformers import Gemma4ForConditionalGeneration, Gemma4Processor, PreTrainedTokenizerFast
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_gemma4 import Gemma4ImageProcessor
from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor
from transformers.video_utils import VideoMetadata

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
out = f"{here}/video"
IMAGE, VIDEO, NEW = "<|image|>", "<|video|>", 16
CONTROL = dict(boi_token="<|image>", eoi_token="<image|>", image_token=IMAGE, boa_token="<|audio>", eoa_token="<audio|>", audio_token="<|audio|>")
TURNS = ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|turn>", "<turn|>"]
# Wide and tall frames have few soft tokens. Of `seconds`, the processor writes whole ones.
CASES = [
    dict(name="wide", model="gemma4-vision", text=f"Look:\n\n{VIDEO}\n\nWhy?", videos=[dict(size=(72, 4), seconds=[0.5, 62.5])]),
    dict(name="both", model="gemma4-vision", text=f"\n\n{IMAGE}\n\nThen\n\n{VIDEO}\n\nor\n\n{VIDEO}\n\n?", images=[(5, 90)],
         videos=[dict(size=(64, 8), seconds=[3599]), dict(size=(4, 72), seconds=[0, 6005.75])]),
    dict(name="layered", model="gemma4-e-vision-bf16", text=f"So\n\n{VIDEO}\n\nend", videos=[dict(size=(5, 90), seconds=[0, 1.25])]),
]


def picture(size, seed):
    r = np.random.RandomState(seed)
    image = Image.new("RGB", size, tuple(int(v) for v in r.randint(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = (int(r.randint(0, side)) for side in size * 2)
        (draw.ellipse if r.rand() < .5 else draw.rectangle)([x, y, x + w // 2 + 1, y + h // 2 + 1], fill=tuple(int(v) for v in r.randint(0, 256, 3)))
    return image


def tokenizer(config):
    """A string for every id: letters, newlines, control tokens, and of the rest Greek."""
    id = lambda key: config.get(f"{key}_id", config.get(f"{key}_index"))
    control = dict(zip(["<pad>", "<eos>", "<bos>", "<unk>"], range(4))) | dict(zip(TURNS, range(99, 107)))
    control |= {name: id(key) for key, name in CONTROL.items()} | {VIDEO: id("video_token")}
    vocab = dict(control) | {chr(33 + at): 4 + at for at in range(94)} | {"▁": 98} | {"\n" * n: 106 + n for n in range(1, 5)}
    rest = sorted(set(range(config["text_config"]["vocab_size"])) - set(vocab.values()))
    vocab |= {chr(0x3b1 + at): id for at, id in enumerate(rest)}
    letters = Tokenizer(models.BPE(vocab, [("\n", "\n"), ("\n\n", "\n"), ("\n\n", "\n\n")], unk_token="<unk>", fuse_unk=True))
    letters.normalizer = normalizers.Replace(" ", "▁")
    letters.decoder = Sequence([Replace("▁", " "), Fuse()])
    letters.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in control])
    assert letters.get_vocab() == vocab
    return letters


def processor(letters):
    words = PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
                                    extra_special_tokens=CONTROL)
    size = dict(patch_size=4, pooling_kernel_size=3, max_soft_tokens=70)
    return Gemma4Processor(Gemma4AudioFeatureExtractor(), Gemma4ImageProcessor(**size), words, Gemma4VideoProcessor(**size), image_seq_length=70)


@torch.no_grad()
def greedy(model, inputs):
    """Tokens, and the least distance of the likeliest from the next, each recomputed without a cache."""
    inputs, least, tokens = dict(inputs), float("inf"), []
    inputs.pop("attention_mask")
    for _ in range(NEW):
        best = model(**inputs, use_cache=False).logits[0, -1].topk(2)
        least, token = min(least, (best.values[0] - best.values[1]).item()), best.indices[:1]
        tokens.append(token.item())
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token[None]], 1)
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, 1, dtype=torch.long)], 1)
    return torch.tensor([tokens]), least


def levels(pixels, places):
    """The live patches of the first picture, as levels of 0 to 255."""
    live = pixels[0][places[0][:, 0] >= 0] * 255
    assert (live - live.round()).abs().max() < 1e-3
    return live.round().to(torch.uint8)


@torch.no_grad()
def run(case, seed, model, process):
    images, films, metadata = [], [], []
    for size in case.get("images", []):
        images.append(f"{case['name']}.picture.{len(images)}.png")
        picture(size, seed + 50 + len(images)).save(f"{out}/{images[-1]}")
    for video in case["videos"]:
        frames = []
        for second in video["seconds"]:
            frames.append(dict(image=f"{case['name']}.{len(films)}.{len(frames)}.png", seconds=second))
            picture(video["size"], seed + 10 * len(films) + len(frames)).save(f"{out}/{frames[-1]['image']}")
        films.append(frames)
        indices = [int(second * 4) for second in video["seconds"]]
        metadata.append(dict(fps=4.0, frames_indices=indices, total_num_frames=indices[-1] + 1))
    read = lambda file: Image.open(f"{out}/{file}")
    text = f"<bos><|turn>user\n{case['text']}<turn|>\n<|turn>model\n"
    pictures = dict(images=[[read(file) for file in images]]) if images else {}
    inputs = process(text=[text], videos=[[read(frame["image"]) for frame in frames] for frames in films], video_metadata=metadata,
                     do_sample_frames=False, return_tensors="pt", **pictures)
    inputs.pop("num_soft_tokens_per_video", None)
    inputs = {key: value for key, value in inputs.items() if torch.is_tensor(value)}
    logits = model(**inputs, use_cache=False).logits
    causal = model(**inputs | dict(mm_token_type_ids=inputs["mm_token_type_ids"] * 0), use_cache=False).logits
    dark = model(**inputs | dict(pixel_values_videos=inputs["pixel_values_videos"] * 0), use_cache=False).logits
    tokens, least = greedy(model, inputs)
    kept = dict(input_ids=inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], logits=logits, gen_tokens=tokens,
                pixel_values_videos=levels(inputs["pixel_values_videos"], inputs["video_position_ids"]))
    measures = dict(gen_min_margin=least, causal_moves_logits=(causal - logits).abs().max().item(), frames_move_logits=(dark - logits).abs().max().item())
    print(case["name"], logits.shape, measures, tokens[0].tolist())
    return kept, dict(name=case["name"], model=case["model"], text=case["text"], images=images, videos=films, **measures)


def main():
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    tensors, cases = {}, []
    for at, case in enumerate(CASES):
        folder = f"{here}/multimodal/{case['model']}"
        letters = tokenizer(json.load(open(f"{folder}/config.json")))
        letters.save(f"{out}/{case['model']}.tokenizer.json")
        model, info = Gemma4ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        kept, told = run(case, 100 * at + SEED, model.eval(), processor(letters))
        tensors |= {f"{case['name']}.{key}": value for key, value in kept.items()}
        cases.append(told)
    video = Gemma4VideoProcessor()
    sampled = {n: video.sample_frames(VideoMetadata(total_num_frames=n, fps=1.0)).tolist() for n in (32, 33, 47, 64, 100, 1001)}
    narrow = lambda value: value if value.dtype in (torch.float32, torch.uint8) else value.to(torch.int32)
    save_file({key: narrow(value).contiguous() for key, value in tensors.items()}, f"{out}/video.safetensors")
    info = dict(transformers=transformers.__version__, torch=torch.__version__, sampled=sampled, cases=cases)
    json.dump(info, open(f"{out}/video.json", "w"), indent=1)


SEED = 7
main()
