"""One PPO iteration on randomly initialised models: seconds by phase, memory, distance to the machine's peak.

An iteration is rollout, score, reference and four PPO epochs. Each variant runs in a process of its own.
Variants take turns, so that a machine that is busy for a while slows all of them, and ratios are taken
within a turn. CPU seconds, which do not count waiting for other processes, are given beside those of the
clock. Variants:

  tutorial   stock TRL, one prompt generated at a time, deep-copied reference, as in the tutorial notebooks
  trl        stock TRL, batched rollout
  same       this project's trainer, the same trained parameters (LoRA on q,v of all layers), float32
  ours       this project's trainer with its default settings
  same-hf, ours-hf                        the same two with --engine hf
  trl-bf16, tutorial-bf16, same-bf16      frozen weights in bfloat16; part of a run on a GPU
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import config

PHASES = ("rollout", "score", "old", "reference", "epochs", "other")
VARIANTS = ("tutorial", "trl", "same", "ours", "same-hf", "ours-hf", "trl-bf16", "tutorial-bf16", "same-bf16")
DEFAULT_VARIANTS = ("tutorial", "trl", "same", "ours")
GPU_VARIANTS = ("tutorial-bf16", "trl-bf16", "same-bf16")
OURS = config.PPO(advantages="batch")  # prompts are all different, as in TRL's batches
STOCK = replace(OURS, lora_r=32, lora_alpha=32, lora_scope="all", lora_targets="q,v")
MEAN_PROMPT = 184
WARM_UP_TOKENS = 16  # enough rows that products run as in a whole iteration
SPREAD = 0.6  # of the logarithm of the prompts' lengths


@dataclass(frozen=True)
class Shape:
    """Sizes of a T5 v1.1 and of the classifier beside it."""

    d: int
    d_ff: int
    layers: int
    heads: int
    d_kv: int = 64
    vocabulary: int = 32128
    classifier_d: int = 768
    classifier_layers: int = 12
    classifier_vocabulary: int = 50265

    @property
    def inner(self) -> int:
        return self.heads * self.d_kv


SHAPES = {
    "small": Shape(512, 1024, 8, 6),
    "base": Shape(768, 2048, 12, 12),
    "tiny": Shape(32, 64, 2, 2, 16, 160, 32, 2, 100),
}


def prompt_lengths(count: int, shortest: int, longest: int, mean: int) -> list[int]:
    """Return `count` quantiles of a log-normal distribution, cut to [shortest, longest], of a given mean."""
    normal = statistics.NormalDist()
    low, high = math.log(shortest), math.log(longest)
    for _ in range(60):
        middle = (low + high) / 2
        quantiles = [math.exp(middle + SPREAD * normal.inv_cdf((i + 0.5) / count)) for i in range(count)]
        lengths = [round(min(max(length, shortest), longest)) for length in quantiles]
        low, high = (middle, high) if sum(lengths) < count * mean else (low, middle)
    return lengths


# --- useful work ---


def useful_gflop(shape: Shape, lengths: Sequence[int], new_tokens: int, ppo: config.PPO) -> dict[str, float]:
    """Return the floating-point work (10^9) that each phase cannot do without; `detox.plan.flops` says what counts."""
    from detox.plan import flops
    from detox.plan.model_sizes import ClassifierSizes, Sizes

    sizes, classifier = Sizes.of(t5_config(shape), ppo), ClassifierSizes.of(classifier_config(shape))
    made = flops.useful_gflop(sizes, classifier, lengths, new_tokens, ppo)
    made["rollout"] = made.pop("encode") + made.pop("generate")
    return {phase: made.get(phase, 0.0) for phase in PHASES}


def measured_peak(device: str) -> dict[str, float]:
    """Return the best rate (10^9 a second) of a large square matrix product in each dtype."""
    import torch

    from detox.plan.machine import measured_gflops

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return {name: measured_gflops(torch.device(device), dtype, repeats=40) for name, dtype in dtypes.items()}


# --- one child ---


def now(device: str) -> float:
    """Return seconds, once the device has finished what it was given."""
    import torch

    from detox.model import devices

    devices.wait_for(torch.device(device))
    return time.perf_counter()


def t5_config(shape: Shape) -> Any:
    """Return the settings of a T5 v1.1: gated, with a head of its own."""
    from transformers import T5Config

    settings = T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.d,
        d_kv=shape.d_kv,
        d_ff=shape.d_ff,
        num_layers=shape.layers,
        num_heads=shape.heads,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    settings.tie_word_embeddings = settings.scale_decoder_outputs = False  # T5Config itself makes both true
    return settings


def make_t5(shape: Shape) -> Any:
    """Return a randomly initialised T5 v1.1 in eval mode."""
    import torch
    from transformers import T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(t5_config(shape))
    # Small enough that the distribution over the vocabulary is broad, as a language model's is at first.
    torch.nn.init.normal_(model.lm_head.weight, std=0.5 * shape.d**-0.5)
    return model.eval()


def classifier_config(shape: Shape) -> Any:
    """Return the settings of a RoBERTa classifier."""
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=shape.classifier_vocabulary,
        hidden_size=shape.classifier_d,
        num_hidden_layers=shape.classifier_layers,
        num_attention_heads=shape.classifier_d // min(64, shape.classifier_d // 2),
        intermediate_size=4 * shape.classifier_d,
        max_position_embeddings=514,
        type_vocab_size=1,
    )


def make_classifier(shape: Shape, device: str, dtype: Any) -> Any:
    """Return a randomly initialised RoBERTa classifier, frozen."""
    import torch
    from transformers import RobertaForSequenceClassification

    torch.manual_seed(1)
    model = RobertaForSequenceClassification(classifier_config(shape))
    return model.to(device, dtype).eval().requires_grad_(False)


def make_tokenizer() -> Any:
    """Return a tokenizer that can pad, which is all that the trainers want of it here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="</s>")


@dataclass
class Task:
    """What a child runs."""

    shape: Shape
    ppo: config.PPO
    device: str
    dtype: Any
    engine: str

    def prompts(self, lengths: Sequence[int], seed: int) -> list[Any]:
        """Return random ids in random order of their lengths, which no variant can then count on."""
        import torch

        generator, shuffled = torch.Generator().manual_seed(seed), list(lengths)
        random.Random(seed).shuffle(shuffled)
        size = self.shape.vocabulary
        return [torch.randint(3, size, (length,), generator=generator).to(self.device) for length in shuffled]


class Timer:
    """Seconds by phase; `calls` keeps those of each call of a watched method."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = now(self.device)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + now(self.device) - started

    @contextmanager
    def watch(self, owner: Any, name: str, phase: Callable[[int], str | None]) -> Iterator[None]:
        """Time each call of a function of `owner`; `phase` turns the call's number into a phase, or None."""
        original, count = getattr(owner, name), [0]

        def timed(*args: Any, **kwargs: Any) -> Any:
            part = phase(count[0])
            count[0] += 1
            if part is None:
                return original(*args, **kwargs)
            with self.phase(part):
                return original(*args, **kwargs)

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, original)


def score(classifier: Any, responses: Sequence[Any]) -> Any:
    """Return [B] logits of responses, read as texts of the classifier; tokenizers are left out."""
    import torch

    with torch.no_grad():
        rows = torch.stack([torch.nn.functional.pad(response, (1, 1)) for response in responses])
        return classifier(rows.clamp(2, classifier.config.vocab_size - 1)).logits[:, 0].float()


def stock_trl(task: Task, one_by_one: bool) -> Callable[[Sequence[Any], int, Timer, Any], None]:
    """Return what runs one iteration of `trl.PPOTrainer` 0.11.4, as the tutorial notebooks set it up."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from trl import AutoModelForSeq2SeqLMWithValueHead, PPOConfig, PPOTrainer, create_reference_model

    ppo = task.ppo
    lora = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=ppo.lora_r,
        lora_alpha=ppo.lora_alpha,
        target_modules=ppo.lora_targets.split(","),
        lora_dropout=0.05,
    )
    base = make_t5(task.shape).to(task.dtype)
    model = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(get_peft_model(base, lora))
    settings = PPOConfig(
        learning_rate=1e-5,
        batch_size=ppo.batch_size,
        mini_batch_size=ppo.minibatch_size,
        ppo_epochs=ppo.ppo_epochs,
        accelerator_kwargs={"cpu": task.device == "cpu"},
    )
    reference = create_reference_model(model) if one_by_one else None
    trainer = PPOTrainer(settings, model.to(task.device), reference, make_tokenizer())

    def iterate(queries: Sequence[Any], new_tokens: int, timer: Timer, classifier: Any) -> None:
        options = {
            "min_new_tokens": new_tokens,
            "max_new_tokens": new_tokens,
            "do_sample": True,
            "top_k": 0,
            "top_p": 1.0,
            "pad_token_id": 0,
        }
        with timer.phase("rollout"), torch.no_grad():
            if one_by_one:
                responses = [trainer.generate(query, **options)[0] for query in queries]
            else:
                responses = trainer.generate(list(queries), batch_size=ppo.batch_size, **options)
        assert all(len(response) == new_tokens + 1 for response in responses)
        with timer.phase("score"):
            scores = score(classifier, [response[1:] for response in responses])
        with timer.watch(trainer, "batched_forward_pass", lambda call: {0: "old", 1: "reference"}.get(call)):
            stats = trainer.step(list(queries), responses, list(scores))
        timer.seconds["epochs"] = float(stats["time/ppo/optimize_step"])

    return iterate


def this_project(task: Task) -> Callable[[Sequence[Any], int, Timer, Any], None]:
    """Return what runs one iteration of `Seq2SeqPPOTrainer`."""
    from detox.model.policy import make_policy
    from detox.model.sampling import Sampling
    from detox.ppo import experience
    from detox.ppo.ppo_config import Seq2SeqPPOConfig
    from detox.ppo.trainer import Seq2SeqPPOTrainer

    ppo = replace(task.ppo, learning_rate=1e-5)
    policy = make_policy(make_t5(task.shape), ppo, dtype=task.dtype).to(task.device)
    settings = Seq2SeqPPOConfig.from_settings(ppo, seed=0, engine=task.engine, cpu=task.device == "cpu")
    trainer = Seq2SeqPPOTrainer(settings, policy, tokenizer=make_tokenizer())
    sampling = Sampling(banned=tuple((eos,) for eos in trainer.engine.eos_ids))

    def iterate(queries: Sequence[Any], new_tokens: int, timer: Timer, classifier: Any) -> None:
        with timer.phase("rollout"):
            rollout = trainer.rollout(queries, range(len(queries)), new_tokens, sampling)
        assert rollout.lengths == [new_tokens] * len(queries)
        with timer.phase("score"):
            scores = score(classifier, rollout.response_ids)
        with (
            timer.watch(experience, "policy_logprobs", lambda call: "old"),
            timer.watch(experience, "reference_logprobs", lambda call: "reference"),
        ):
            metrics = trainer.update(rollout, scores)
        assert "skipped" not in metrics, metrics
        timer.seconds["epochs"] = metrics["time/optimize"]

    return iterate


def make_task(variant: str, arguments: argparse.Namespace) -> Task:
    """Return what a variant trains, and how."""
    import torch

    from detox.model import devices

    device = devices.take(arguments.device).type
    ours = variant.startswith("ours")
    dtype = "auto" if ours else "bfloat16" if variant.endswith("-bf16") else "float32"
    sizes = {"batch_size": arguments.batch_size, "minibatch_size": arguments.minibatch_size}
    return Task(
        SHAPES[arguments.shape],
        replace(OURS if ours else STOCK, **sizes),
        device,
        devices.choose_dtype(dtype, torch.device(device)),
        "hf" if variant.endswith("-hf") else "auto",
    )


def lengths_of(arguments: argparse.Namespace) -> list[int]:
    """Return the prompts' lengths."""
    shortest, longest = arguments.prompt_tokens
    mean = round(MEAN_PROMPT * longest / 400)
    return prompt_lengths(arguments.batch_size, shortest, longest, mean)


def run_child(variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one variant (or the machine's peak) in this process."""
    import torch

    from detox.model import devices, loading, threads

    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads or threads.for_width(SHAPES[arguments.shape].d))
    if variant == "peak":
        return {"variant": variant, "gflops": measured_peak(devices.take(arguments.device).type)}

    loading.quiet()
    task = make_task(variant, arguments)
    before = peak_mb()
    iterate = this_project(task) if variant.startswith(("same", "ours")) else stock_trl(task, "tutorial" in variant)
    classifier = make_classifier(task.shape, task.device, task.dtype)
    # A first, short iteration pays for what is done once; this project's trainer checks its ratio there.
    short = min(WARM_UP_TOKENS, arguments.new_tokens)
    iterate(task.prompts([8] * arguments.batch_size, seed=1), short, Timer(task.device), classifier)
    if task.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    prompts, timer = task.prompts(lengths_of(arguments), seed=2), Timer(task.device)
    profiler = torch.profiler.profile() if arguments.profile else None
    if profiler is not None:
        profiler.start()
    started, started_cpu = now(task.device), time.process_time()
    iterate(prompts, arguments.new_tokens, timer, classifier)
    total, total_cpu = now(task.device) - started, time.process_time() - started_cpu
    if profiler is not None:
        profiler.stop()
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25), file=sys.stderr)
    seconds = {phase: timer.seconds.get(phase, 0.0) for phase in PHASES} | {"total": total}
    seconds["other"] = total - sum(seconds[phase] for phase in PHASES if phase != "other")
    return {
        "variant": variant,
        "seconds": seconds,
        "cpu_seconds": total_cpu,
        "gflop": useful_gflop(task.shape, lengths_of(arguments), arguments.new_tokens, task.ppo),
        "dtype": str(task.dtype).removeprefix("torch."),
        "device": devices.name_of(torch.device(task.device)),
        "peak_rss_mb": peak_mb(),
        "rss_before_models_mb": before,
        "peak_device_mb": devices.peak_memory_mb(torch.device(task.device)) if task.device != "cpu" else None,
    }


def peak_mb() -> float:
    """Return the most main memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# --- the parent ---


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run every variant `repeats` times, in turn; return all that was measured."""
    runs = []
    for repeat in range(arguments.repeats):
        for variant in ["peak", *arguments.variants]:
            found = start_child(variant, arguments) | {"repeat": repeat}
            runs.append(found)
            said = f"{found['seconds']['total']:.1f} s" if "seconds" in found else found["gflops"]
            print(f"repeat {repeat + 1} of {arguments.repeats}: {variant}: {said}", file=sys.stderr, flush=True)
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(arguments.device),
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("output", "child")},
        "prompt_tokens_in_all": sum(lengths_of(arguments)),
        "runs": runs,
        "summary": summarize(runs, arguments.variants),
    }


def start_child(variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in a process of its own, with the same arguments."""
    own = [sys.executable, str(Path(__file__).resolve()), "--child", variant, "--shape", arguments.shape]
    for name in ("device", "threads", "batch_size", "minibatch_size", "new_tokens"):
        own += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    own += ["--prompt-tokens", *map(str, arguments.prompt_tokens), *["--profile"] * arguments.profile]
    return run_apart(own, arguments.threads, f"variant {variant}")


def run_apart(command: Sequence[str], threads: int, what: str) -> dict[str, Any]:
    """Run a command with so many threads a process (0: its own choice); return the JSON object that it prints last."""
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in counts}
    environment |= {"TOKENIZERS_PARALLELISM": "0"} | (dict.fromkeys(counts, str(threads)) if threads else {})
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"error: {what} failed with exit code {result.returncode}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def machine(name: str) -> dict[str, Any]:
    """Return what the measurement ran on; `name` is the device's."""
    import torch
    import transformers
    import trl

    from detox.model import devices

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl)}
    device = devices.choose(name)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "device": devices.name_of(device) if device.type != "cpu" else None,
        "python": platform.python_version(),
        **versions,
    }


def summarize(runs: Sequence[dict[str, Any]], variants: Sequence[str]) -> dict[str, Any]:
    """Return medians and ranges by variant; ratios are taken within a repeat."""
    peaks = [run["gflops"] for run in runs if run["variant"] == "peak"]
    peak = {dtype: statistics.median(found[dtype] for found in peaks) for dtype in peaks[0]}
    of = {name: [run for run in runs if run["variant"] == name] for name in variants}
    summary: dict[str, Any] = {"peak_gflops": peak}
    for name, own in of.items():
        median = {phase: _median(own, lambda run, phase=phase: run["seconds"][phase]) for phase in (*PHASES, "total")}
        work = own[0]["gflop"]
        floor = {phase: work[phase] / peak[own[0]["dtype"]] for phase in PHASES}
        totals = [run["seconds"]["total"] for run in own]
        summary[name] = {
            "dtype": own[0]["dtype"],
            "seconds": median,
            "range": [min(totals), max(totals)],
            "cpu_seconds": _median(own, lambda run: run["cpu_seconds"]),
            "peak_rss_mb": _median(own, lambda run: run["peak_rss_mb"]),
            "peak_device_mb": _median(own, lambda run: run["peak_device_mb"] or 0.0),
            "gflop": work | {"total": sum(work.values())},
            "share_of_peak": {phase: floor[phase] / median[phase] for phase in PHASES if floor[phase]}
            | {"total": sum(floor.values()) / median["total"]},
        }
        for other in ("trl", "tutorial"):
            if of.get(other):
                pairs = list(zip(of[other], own, strict=True))
                speed = [a["seconds"]["total"] / b["seconds"]["total"] for a, b in pairs]
                summary[name][f"times_as_fast_as_{other}"] = statistics.median(speed)
                summary[name][f"times_as_fast_as_{other}_range"] = [min(speed), max(speed)]
                cpu = [a["cpu_seconds"] / b["cpu_seconds"] for a, b in pairs]
                summary[name][f"cpu_times_as_fast_as_{other}"] = statistics.median(cpu)
                memory = [b["peak_rss_mb"] / a["peak_rss_mb"] for a, b in pairs]
                summary[name][f"memory_over_{other}"] = statistics.median(memory)
    return summary


def _median(runs: Sequence[dict[str, Any]], number: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(number(run) for run in runs)


def tables(found: dict[str, Any]) -> str:
    """Return Markdown tables of a measurement."""
    summary, variants = found["summary"], found["settings"]["variants"]
    rivals = [name for name in ("trl", "tutorial") if name in variants]
    ratios = "".join(f"x {name} (CPU) | " for name in rivals)
    lines = [
        f"| variant | {' | '.join(PHASES)} | total (range), s | CPU s | {ratios}peak RSS, MB |",
        "|" + "---|" * (len(PHASES) + len(rivals) + 4),
    ]
    for name in variants:
        row = summary[name]
        cells = [f"{row['seconds'][phase]:.2f}" for phase in PHASES]
        cells.append(f"{row['seconds']['total']:.2f} ({row['range'][0]:.1f} to {row['range'][1]:.1f})")
        cells.append(f"{row['cpu_seconds']:.1f}")
        cells += [
            f"{row[f'times_as_fast_as_{rival}']:.2f} ({row[f'cpu_times_as_fast_as_{rival}']:.2f})" for rival in rivals
        ]
        cells.append(
            f"{row['peak_rss_mb']:,.0f}" + (f", device {row['peak_device_mb']:,.0f}" if row["peak_device_mb"] else "")
        )
        lines.append(f"| {name} ({row['dtype']}) | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"| useful GFLOP; share of the peak | {' | '.join(PHASES)} | total |",
        "|" + "---|" * (len(PHASES) + 2),
    ]
    for name in variants:
        row = summary[name]
        cells = [
            f"{row['gflop'][phase]:,.0f}; {row['share_of_peak'][phase]:.0%}" if phase in row["share_of_peak"] else "0"
            for phase in (*PHASES, "total")
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    peak = ", ".join(f"{rate:,.0f} in {dtype}" for dtype, rate in summary["peak_gflops"].items())
    return "\n".join([*lines, "", f"Peak of a matrix product, GFLOP a second: {peak}."])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small", help="Flan-T5's; tiny is for a look")
    parser.add_argument("--device", default="auto", help="as the stages take it")
    parser.add_argument("--threads", type=int, default=1, help="0: as many as a stage takes by itself")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: " + " ".join(DEFAULT_VARIANTS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--minibatch-size", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, nargs=2, default=(60, 400), help="shortest and longest prompt")
    parser.add_argument("--new-tokens", type=int, default=48, help="of every response; its end is never drawn")
    parser.add_argument("--profile", action="store_true", help="also print where torch spends its time")
    parser.add_argument("--output", type=Path, help="write everything that was measured to this JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.child:
        print(json.dumps(run_child(arguments.child, arguments)))
        return
    if arguments.variants is None:
        from detox.model import devices

        more = () if devices.choose(arguments.device).type == "cpu" else GPU_VARIANTS
        arguments.variants = [*DEFAULT_VARIANTS, *more]
    found = measure(arguments)
    print(tables(found))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
