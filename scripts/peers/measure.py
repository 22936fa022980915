"""Runs gemmaflow and its peers in turn on the same shapes, and prints medians and ratios. bench-peers prepares what it runs."""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

CORES = os.cpu_count()
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Case:
    """One program with one file, run once a round."""

    who: str
    commands: list  # each is run in turn and gives some of the figures
    read: object  # from a command's output to figures by name
    env: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)  # name -> [(tokens a second, void), ...]
    failure: str = ""  # how a peer ended that gave no figures


class Failed(Exception):
    """A command that gave no figures."""


def machine_busy():
    """Seconds that all cores together have been busy since boot."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICKS


def own_busy():
    """CPU seconds of this process and of the children that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run(command, env, limit):
    """The output, and the share of the machine that other processes had meanwhile."""
    start, machine, own = time.monotonic(), machine_busy(), own_busy()
    try:
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"took more than {limit:g} s") from error
    wall = time.monotonic() - start
    others = max(0.0, (machine_busy() - machine) - (own_busy() - own)) / (wall * CORES)
    if done.returncode != 0:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"status {done.returncode}"
        print(f"{' '.join(map(str, command))}\nended with {how}:\n{done.stderr[-3000:]}", file=sys.stderr)
        raise Failed(f"ended with {how}")
    return done.stdout, others, wall


def read_gemmaflow(out):
    report = json.loads(out.strip().split("\n")[-1])
    figures = {f"prefill {report['prompt']}": report["prefill_tokens_per_s"]["median"]}
    if report["gen"] > 1:
        figures["decode"] = report["decode_tokens_per_s"]["median"]
    return figures


def read_llama(out):
    """Of tests that were asked for twice the last: the one before it compiled pipelines."""
    figures = {}
    for line in filter(None, out.split("\n")):
        test = json.loads(line)
        figures[f"prefill {test['n_prompt']}" if test["n_prompt"] else "decode"] = test["avg_ts"]
    return figures


def read_object(out):
    return json.loads(out.strip().split("\n")[-1])


def gemmaflow(options, model, extra, prompts, env):
    commands = []
    for i, prompt in enumerate(prompts):
        generated = options.gen if i == 0 else 1
        sizes = ["--prompt", str(prompt), "--depth", "0", "--gen", str(generated), "--reps", "1"]
        commands.append([options.gemmaflow, "--model", model, "--json", *sizes, *extra])
    return Case(f"gemmaflow {model.stem}", commands, read_gemmaflow, env)


def llama(options, models, kind, extra, prompts, env):
    binary = options.scratch / "llama-build/bin/llama-bench"
    tests = ["-p", ",".join(map(str, [prompts[0], *prompts])), "-n", f"4,{options.gen}"]
    fixed = ["-r", "1", "--no-warmup", "-t", str(CORES), "-o", "jsonl"]
    return Case(f"llama.cpp {kind}", [[binary, "-m", models / f"{kind}.gguf", *tests, *fixed, *extra]], read_llama, env)


def on_driver(options):
    """Environments and options of both programs on one Vulkan driver."""
    driver = {"VK_DRIVER_FILES": options.driver, "VK_ICD_FILENAMES": options.driver} if options.driver else {}
    # ggml passes over Vulkan devices that are CPUs unless they are named.
    named = driver | {"GGML_VK_VISIBLE_DEVICES": "0"}
    # Its flash-attention shader takes minutes to compile on lavapipe.
    return driver, named, ["--device", "gpu"], ["-ngl", "99", "-fa", "0"]


def vulkan_cases(options, models):
    driver, named, own, extra = on_driver(options)
    cases = [gemmaflow(options, models / "bf16", own, options.prompts, driver)]
    if "llama" in options.peers:
        cases += [llama(options, models, kind, extra, options.prompts, named) for kind in options.formats]
    return [("vulkan", cases)]


def file_cases(options, models):
    """Each file by both programs, side by side."""
    driver, named, own, extra = on_driver(options)
    return [
        (
            kind,
            [
                gemmaflow(options, models / f"{kind}.gguf", own, options.prompts, driver),
                llama(options, models, kind, extra, options.prompts, named),
            ],
        )
        for kind in options.formats
    ]


def cpu_cases(options, models):
    prompts = options.prompts[:1]
    texts = [",".join(map(str, prompts)), str(options.gen)]
    kinds = dict.fromkeys([*options.formats, "q8_0"])
    packed = [kind for kind in kinds if kind not in ("f16", "bf16")]
    files = [models / "bf16", *(models / f"{kind}.gguf" for kind in packed)]
    cases = [gemmaflow(options, file, ["--device", "cpu"], prompts, {}) for file in files]
    if "candle" in options.peers:
        binary = options.scratch / "candle/target/release/candle-peer"
        files = {"f32": models / "bf16", "f16": models / "f16"} | {kind: models / f"{kind}.gguf" for kind in packed}
        cases += [Case(f"candle {k}", [[binary, path, k, *texts]], read_object) for k, path in files.items()]
    if "llama" in options.peers:
        cases += [llama(options, models, kind, ["-dev", "none", "-ngl", "0"], prompts, {}) for kind in kinds]
    if "transformers" in options.peers:
        command = [sys.executable, Path(__file__).with_name("transformers_peer.py"), models / "bf16", *texts]
        cases.append(Case("transformers bf16", [command], read_object))
    return [("cpu", cases)]


def measure(cases, rounds, options):
    """Interleaved: every case once, then every case again, but for a peer that failed."""
    for number in range(1, rounds + 1):
        for case in cases:
            for command in case.commands if not case.failure else []:
                try:
                    out, others, wall = run(command, case.env, options.limit)
                    figures = case.read(out)
                except (Failed, ValueError, KeyError) as error:
                    # A peer may crash on some machines; without this crate's figures there is nothing to compare.
                    if case.who.startswith("gemmaflow"):
                        sys.exit(f"{case.who}: {error!r}")
                    case.failure = str(error)
                    print(f"  round {number}: {case.who:18} {case.failure}", file=sys.stderr, flush=True)
                    break
                void = others > options.void / 100
                for name, value in figures.items():
                    case.figures.setdefault(name, []).append((value, void))
                shown = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
                note = f"others {others:.1%}" + (" VOID" if void else "")
                print(f"  round {number}: {case.who:18} {shown} ({wall:.0f} s, {note})", file=sys.stderr, flush=True)


def median(measured):
    """Of the measurements that are not void; of all where each is, and then whether that is so."""
    valid = [value for value, void in measured if not void]
    return statistics.median(valid or [value for value, _ in measured]), not valid


def cell(case, name, first):
    if name not in case.figures:
        return case.failure, ""
    measured = case.figures[name]
    (value, void), (own, own_void) = median(measured), median(first.figures[name])
    values = [v for v, _ in measured]
    count = f"{sum(not v for _, v in measured)} of {len(measured)}"
    text = f"{value:.2f} ({min(values):.2f} to {max(values):.2f}; {count})"
    text += f"; {case.failure}" if case.failure else ""
    ratio = "" if case is first else f"{own / value:.2f}" + (" void" if void or own_void else "")
    return (f"{text} void" if void else text), ratio


def table(title, cases):
    first = cases[0]
    names = list(first.figures)
    lines = [f"### {title}", "", "Tokens a second: median (least to most; how many count). Then gemmaflow's as a multiple of it.", ""]
    lines.append("| | " + " | ".join(f"{name} | ratio" for name in names) + " |")
    lines.append("|---|" + "---|---|" * len(names))
    for case in cases:
        lines.append(f"| {case.who} | " + " | ".join(" | ".join(cell(case, name, first)) for name in names) + " |")
    return "\n".join(lines) + "\n"


def heading(options):
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown CPU")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False).stdout.strip()
    versions = " ".join(options.versions.read_text().split("\n")).strip()
    started = datetime.now().strftime("%Y-%m-%d %H:%M")
    return f"{started}, commit {commit}, {CORES} × {cpu}; {versions}; void above {options.void:g} % of the machine to others\n"


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--gemmaflow", type=Path, required=True)
    parser.add_argument("--versions", type=Path, required=True)
    words = {"type": lambda text: text.split(",")}
    parser.add_argument("--parts", **words, default=["vulkan", "cpu"])
    parser.add_argument("--peers", **words, default=["llama", "candle"])
    parser.add_argument("--shapes", **words, default=["gemma-3-270m:3", "gemma-3-1b:2"])
    parser.add_argument("--formats", **words, default=["f16"])
    parser.add_argument("--prompts", type=lambda text: [int(n) for n in text.split(",")], default=[128, 512])
    parser.add_argument("--gen", type=int, default=16)
    parser.add_argument("--void", type=float, default=3.0)
    parser.add_argument("--driver", default="")
    parser.add_argument("--limit", type=float, default=1800.0)
    return parser.parse_args()


def main():
    options = arguments()
    report = heading(options)
    raw = {"heading": report, "figures": {}, "failures": {}}
    for part, make in (("vulkan", vulkan_cases), ("cpu", cpu_cases), ("files", file_cases)):
        for entry in options.shapes if part in options.parts else []:
            shape, _, rounds = entry.partition(":")
            print(f"{part}, {shape}", file=sys.stderr, flush=True)
            groups = make(options, options.scratch / "models" / shape)
            measure([case for _, cases in groups for case in cases], int(rounds or 3), options)
            for name, cases in groups:
                title = f"{shape}, {name}"
                raw["figures"][title] = {case.who: case.figures for case in cases}
                raw["failures"] |= {f"{title}: {case.who}": case.failure for case in cases if case.failure}
                report += "\n" + table(title, cases)
    results = options.scratch / "results"
    results.mkdir(exist_ok=True)
    path = results / f"{datetime.now():%Y-%m-%dT%H%M%S}"
    path.with_suffix(".md").write_text(report)
    path.with_suffix(".json").write_text(json.dumps(raw, indent=1))
    print(report)


if __name__ == "__main__":
    main()
