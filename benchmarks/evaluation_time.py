"""How long an evaluation takes, part by part, on randomly initialised models of a given shape; and against other code.

    python benchmarks/evaluation_time.py --shape base --against ../before --repeats 3

The parts: what the starting model summarizes (sampled, under other seeds, greedy, without bad words), what the policy
summarizes, how likely that is to the starting model, and what the classifiers say of all of it (toxicity, which is the
reward as well, and a judge; with ROUGE, which is little). Random weights never end a summary, so each has as many
tokens as there may be. Both codes run in processes of their own and take turns, so that a machine that is busy for a
while slows both; ratios are taken within a turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("starting model", "policy", "teacher forcing", "classifiers")
WORDS = 90  # of the texts that the classifier reads


class Texts:
    """A tokenizer that decodes ids to words, one a token."""

    def batch_decode(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        return [" ".join(f"w{i % WORDS}" for i in row) for row in rows]


def banned_words(vocabulary: int) -> tuple[tuple[int, ...], ...]:
    """Return as many sequences as the default list of bad words gives with T5's vocabulary, of such lengths."""
    draw = random.Random(0)
    return tuple(tuple(draw.randrange(3, vocabulary) for _ in range(draw.choice((1, 2, 2, 3, 4)))) for _ in range(300))


def run_child(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure each part once in this process."""
    sys.path.insert(0, str(arguments.child))
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    import config
    from benchmarks import ppo_step
    from detox.evaluation import scorers, summaries
    from detox.evaluation.summaries import Draw
    from detox.model import devices, loading
    from detox.model.engines import make_engine
    from detox.model.policy import make_policy

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    loading.quiet()
    shape, seconds, cpu = ppo_step.SHAPES[arguments.shape], {}, {}
    dtype = devices.choose_dtype(arguments.dtype, torch.device("cpu"))
    settings = replace(config.Evaluation(), max_new_tokens=arguments.new_tokens, samples=arguments.samples)
    lengths = ppo_step.prompt_lengths(arguments.dialogues, 60, 400, 200)
    draw = torch.Generator().manual_seed(0)
    queries = [torch.randint(3, shape.vocabulary, (length,), generator=draw) for length in lengths]
    random.Random(0).shuffle(queries)

    def timed(part: str, function: Any, *rest: Any, **options: Any) -> Any:
        started, worked = time.perf_counter(), time.process_time()
        found = function(*rest, **options)
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - started
        cpu[part] = cpu.get(part, 0.0) + time.process_time() - worked
        return found

    def summarize(part: str, engine: Any, draws: dict[str, Draw], queries: list[Any] = queries) -> Any:
        return timed(part, summaries.summarize, engine, Texts(), queries, draws, settings, seed=0, title="")

    start = make_engine("auto", ppo_step.make_t5(shape).to(dtype).requires_grad_(False))
    policy = make_engine("auto", make_policy(ppo_step.make_t5(shape), config.PPO(), dtype=dtype).pretrained_model)
    k, eos = arguments.samples, ((1,),)
    with contextlib.redirect_stdout(sys.stderr):  # the last line is JSON
        for engine in (start, policy):  # pays for what is done once
            summaries.summarize(engine, Texts(), queries[:2], {"greedy": Draw(greedy=True)}, settings, seed=0, title="")
        draws = {"samples": Draw(stop=k, banned=eos), "noise": Draw(start=k, stop=2 * k, banned=eos)}
        draws |= {"greedy": Draw(greedy=True, banned=eos)}
        draws |= {"filtered": Draw(stop=k, banned=(*banned_words(shape.vocabulary), *eos))}
        made = list(summarize("starting model", start, draws).values())
        draws = {"samples": Draw(stop=k, banned=eos), "greedy": Draw(greedy=True, banned=eos)}
        own = list(summarize("policy", policy, draws).values())
        timed("teacher forcing", summaries.teacher_force, start, queries, own, settings, title="")
    with tempfile.TemporaryDirectory() as folder:
        words = {"<pad>": 0, "<unk>": 1} | {f"w{i}": i + 2 for i in range(WORDS)}
        words = Tokenizer(models.WordLevel(words, "<unk>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
        ppo_step.make_classifier(shape, "cpu", torch.float32).save_pretrained(folder)
        judge = Path(shutil.copytree(folder, f"{folder}/judge")) / "config.json"
        judge.write_text(json.dumps({**json.loads(judge.read_text()), "name": "judge"}))  # a copy would be refused
        named = {"model": folder, "label": "LABEL_0"}
        measured, judge = config.Toxicity(**named), config.Judge(model=f"{folder}/judge", label="LABEL_0")
        _, marks = scorers.load_scorers(measured, judge, config.Reward(**named), torch.device("cpu"))
        timed("classifiers", scorers.score, [*made, *own], marks, [["w1"]] * len(queries))
    said = [hash(tuple(record["ids"])) for group in (*made, *own) for row in group for record in row]
    made_of = {"seconds": seconds, "cpu_seconds": cpu}
    totals = {name: parts | {"total": sum(parts.values())} for name, parts in made_of.items()}
    return totals | {"peak_rss_mb": ppo_step.peak_mb(), "said": said}


def measure(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Run each code `repeats` times, in turn."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import ppo_step

    codes = {"before": arguments.against} if arguments.against else {}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*codes, "now")}
    passed = ("shape", "dtype", "dialogues", "samples", "new_tokens", "threads")
    flags = [word for name in passed for word in (f"--{name.replace('_', '-')}", str(getattr(arguments, name)))]
    for repeat in range(arguments.repeats):
        for name, root in (codes | {"now": ROOT}).items():
            command = [sys.executable, __file__, "--child", str(Path(root).resolve()), *flags]
            runs[name].append(ppo_step.run_apart(command, arguments.threads, name))
            print(f"turn {repeat + 1}, {name}: {runs[name][-1]['seconds']['total']:.1f} s", file=sys.stderr, flush=True)
    return runs


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table of medians, and of ratios within a turn."""
    lines = [
        f"| | {' | '.join(f'{name}, s' for name in runs)} | times as fast | by CPU seconds |",
        f"|---|{'---|' * (len(runs) + 2)}",
    ]
    for part in (*PARTS, "total"):
        cells = [f"{statistics.median(run['seconds'][part] for run in own):.2f}" for own in runs.values()]
        for clock in ("seconds", "cpu_seconds"):
            ratios = [one[clock][part] / two[clock][part] for one, two in zip(runs.get("before", ()), runs["now"])]
            cells.append(f"{statistics.median(ratios):.2f}" if ratios else "")
        lines.append(f"| {part} | {' | '.join(cells)} |")
    memory = [f"{statistics.median(run['peak_rss_mb'] for run in own):,.0f}" for own in runs.values()]
    lines.append(f"| peak RSS, MB | {' | '.join(memory)} | | |")
    for one, two in zip(runs.get("before", ()), runs["now"]):
        same = sum(a == b for a, b in zip(one["said"], two["said"], strict=True))
        lines.append(f"\n{same} of {len(one['said'])} summaries are the same, token by token.")
        break
    return "\n".join(lines)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("small", "base", "tiny"), default="base")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of frozen weights")
    parser.add_argument("--dialogues", type=int, default=100)
    parser.add_argument("--samples", type=int, default=4, help="summaries a dialogue")
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own number")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    if arguments.child:
        print(json.dumps(run_child(arguments)))
    else:
        print(table(measure(arguments)))


if __name__ == "__main__":
    main()
