"""PPO iterations on several processes of one machine: seconds by phase, what is exchanged, and what the plan says.

  strong   the batch stays, each process takes its share
  weak     each process has a batch of its own size

Models are randomly initialised; settings are this project's defaults. Every number of processes takes its turn in every
repeat. Rollout, score and update count what a process computes itself; `waiting` is for the slowest of them, before an
exchange, and `exchange` the exchange alone. The plan (`training_ppo.py --plan --plan-processes`) is given the rate that
one process reached, and the bandwidth that was measured between two.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import config
from benchmarks import ppo_step
from detox.stage.parallel import Processes, Result

PHASES = ("rollout", "score", "update", "waiting", "exchange")
LINK_BYTES = 2**25
"""Of the sum that measures the bandwidth between processes."""


@dataclass(frozen=True)
class Run:
    """One measurement: how the batch grows with the processes, and how many there are."""

    scaling: str
    processes: int

    @property
    def name(self) -> str:
        return f"{self.scaling} {self.processes}"


def runs_of(processes: Sequence[int]) -> list[Run]:
    """Return what is measured; with one process strong and weak scaling are the same."""
    return [Run(scaling, n) for n in processes for scaling in ("strong", "weak") if n > 1 or scaling == "strong"]


# --- one of the processes of a run ---


class TimedProcesses(Processes):
    """Processes that wait for each other before each exchange, so that the two are told apart.

    Attributes:
        waiting, exchange: seconds so far.
    """

    waiting = exchange = 0.0
    _inside = False  # an exchange that is made of others counts once

    def _timed(self, exchange: Callable[[], Result]) -> Result:
        from torch import distributed as dist

        if self.count == 1 or self._inside:
            return exchange()
        started = time.perf_counter()
        dist.barrier()
        met, self._inside = time.perf_counter(), True
        result = exchange()
        self._inside = False
        self.waiting += met - started
        self.exchange += time.perf_counter() - met
        return result

    def sum(self, tensors: Sequence[Any]) -> None:
        self._timed(lambda: super(TimedProcesses, self).sum(tensors))

    def gather(self, rows: Any) -> Any:
        return self._timed(lambda: super(TimedProcesses, self).gather(rows))

    def gather_objects(self, value: Any) -> list[Any]:
        return self._timed(lambda: super(TimedProcesses, self).gather_objects(value))


def settings_of(run: Run, arguments: argparse.Namespace) -> config.PPOTraining:
    """Return the settings of all processes of a run together."""
    grows = run.processes if run.scaling == "weak" else 1
    sizes = {"batch_size": arguments.batch_size * grows, "minibatch_size": arguments.minibatch_size * grows}
    return replace(
        config.PPOTraining(),
        ppo=replace(ppo_step.OURS, **sizes),
        dtype=arguments.dtype,
        rollout=config.Rollout(max_new_tokens=arguments.new_tokens),
    )


def lengths_of(settings: config.PPOTraining, arguments: argparse.Namespace) -> list[int]:
    """Return the lengths of all processes' prompts."""
    shortest, longest = arguments.prompt_tokens
    mean = round(ppo_step.MEAN_PROMPT * longest / 400)
    return ppo_step.prompt_lengths(settings.ppo.batch_size, shortest, longest, mean)


def run_child(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one run as one of its processes; the main one returns what all have found."""
    import torch

    import detox.ppo.trainer  # noqa: F401 (so that the plan counts its libraries)
    from detox.model import loading
    from detox.stage import parallel

    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    loading.quiet()
    joined = parallel.start("cpu")
    processes = TimedProcesses(joined.rank, joined.count, joined.device)
    settings = settings_of(run, arguments)
    planned = planned_peak(settings, arguments, run.processes)
    link = link_rate(processes)
    task = ppo_step.Task(ppo_step.SHAPES[arguments.shape], settings.ppo, "cpu", getattr(torch, arguments.dtype), "auto")
    iterate = training(task, processes)
    # A first, short iteration pays for what is done once.
    short = min(ppo_step.WARM_UP_TOKENS, arguments.new_tokens)
    iterate(task.prompts([8] * settings.ppo.batch_size, seed=1), short)
    found = iterate(task.prompts(lengths_of(settings, arguments), seed=2), arguments.new_tokens)
    found["peak_rss_mb"] = ppo_step.peak_mb()
    every = processes.gather_objects(found)
    return {
        "run": run.name,
        "seconds": {phase: statistics.fmean(own["seconds"][phase] for own in every) for phase in PHASES}
        | {"total": max(own["seconds"]["total"] for own in every)},
        "cpu_seconds": max(own["cpu_seconds"] for own in every),
        "bytes_sent": max(own["bytes_sent"] for own in every),
        "peak_rss_mb": max(own["peak_rss_mb"] for own in every),
        "planned_peak_mb": planned,
        "link_gb_per_second": link,
    }


def training(task: ppo_step.Task, processes: TimedProcesses) -> Callable[[Sequence[Any], int], dict[str, Any]]:
    """Return what runs one iteration on this process's share of some prompts, and measures it."""
    from detox.model.policy import make_policy
    from detox.model.sampling import Sampling
    from detox.ppo.ppo_config import Seq2SeqPPOConfig
    from detox.ppo.trainer import Seq2SeqPPOTrainer

    settings = Seq2SeqPPOConfig.from_settings(task.ppo, seed=0, engine=task.engine, cpu=True, processes=processes.count)
    policy = make_policy(ppo_step.make_t5(task.shape), task.ppo, dtype=task.dtype)
    trainer = Seq2SeqPPOTrainer(settings, policy, tokenizer=ppo_step.make_tokenizer(), processes=processes)
    classifier = ppo_step.make_classifier(task.shape, "cpu", task.dtype)
    sampling = Sampling(banned=tuple((eos,) for eos in trainer.engine.eos_ids))

    def iterate(prompts: Sequence[Any], new_tokens: int) -> dict[str, Any]:
        mine = processes.share(len(prompts))
        processes.gather_objects(None)  # all start at once
        processes.waiting = processes.exchange = 0.0
        sent, cpu, marks = processes.bytes_sent, time.process_time(), [time.perf_counter()]
        rollout = trainer.rollout(prompts[mine], range(len(prompts))[mine], new_tokens, sampling)
        marks.append(time.perf_counter())
        scores = ppo_step.score(classifier, rollout.response_ids)
        marks.append(time.perf_counter())
        metrics = trainer.update(rollout, scores)
        marks.append(time.perf_counter())
        assert "skipped" not in metrics, metrics
        seconds = dict(zip(PHASES, (after - before for before, after in zip(marks, marks[1:]))))
        seconds |= {"waiting": processes.waiting, "exchange": processes.exchange, "total": marks[-1] - marks[0]}
        seconds["update"] -= processes.waiting + processes.exchange
        return {
            "seconds": seconds,
            "cpu_seconds": time.process_time() - cpu,
            "bytes_sent": processes.bytes_sent - sent,
        }

    return iterate


def link_rate(processes: Processes) -> float | None:
    """Return the best rate (10^9 bytes a second) at which a sum passes through a process, if there are several."""
    import torch

    if processes.count == 1:
        return None
    numbers, seconds = torch.zeros(LINK_BYTES // 4), []
    for _ in range(5):
        processes.gather_objects(None)
        started = time.perf_counter()
        processes.sum([numbers])
        seconds.append(time.perf_counter() - started)
    return 2 * (processes.count - 1) / processes.count * LINK_BYTES / min(seconds) / 1e9


# --- what the plan says ---


def sizes_of(settings: config.PPOTraining, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return the sizes of summarizer and classifier, as the plan reads them."""
    from detox.plan.model_sizes import ClassifierSizes, Sizes

    shape = ppo_step.SHAPES[arguments.shape]
    return Sizes.of(ppo_step.t5_config(shape), settings.ppo), ClassifierSizes.of(ppo_step.classifier_config(shape))


def planned_peak(settings: config.PPOTraining, arguments: argparse.Namespace, processes: int) -> float:
    """Return the MB that each process is planned to take, if every prompt were as long as the longest."""
    import torch

    from detox.plan import memory

    summarizer, classifier = sizes_of(settings, arguments)
    longest = max(lengths_of(settings, arguments))
    own = replace(settings, ppo=settings.ppo.share(processes))
    return memory.plan(own, summarizer, classifier.weights, torch.device("cpu"), longest, True).peak / 2**20


def planned_update(run: Run, arguments: argparse.Namespace, gflops: float, memory_rate: float, link: float) -> Any:
    """Return the plan's estimate of one update, from the rates of a process and of what connects it to the others."""
    import torch

    from detox.plan import update_time
    from detox.plan.machine import Machine

    settings = settings_of(run, arguments)
    mean = round(statistics.fmean(lengths_of(settings, arguments)))
    machine = Machine(gflops, memory_rate, link, ("", "", ""))
    sizes = sizes_of(settings, arguments)
    return update_time.estimate(settings, *sizes, torch.device("cpu"), mean, machine, run.processes)


# --- the parent ---


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make every run `repeats` times, in turn; return all that was measured."""
    found = []
    for repeat in range(arguments.repeats):
        for run in runs_of(arguments.processes):
            found.append(start_run(run, arguments) | {"repeat": repeat})
            said = f"{found[-1]['seconds']['total']:.1f} s"
            print(f"repeat {repeat + 1} of {arguments.repeats}: {run.name}: {said}", file=sys.stderr, flush=True)
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": ppo_step.machine("cpu"),
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("output", "child")},
        "runs": found,
        "summary": summarize(found, arguments),
    }


def start_run(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make one run in processes of its own, with the same arguments."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(run.processes), str(Path(__file__).resolve()), "--child", run.name]
    for name in ("shape", "dtype", "threads", "batch_size", "minibatch_size", "new_tokens"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    command += ["--prompt-tokens", *map(str, arguments.prompt_tokens)]
    return ppo_step.run_apart(command, arguments.threads, f"run {run.name}")


def summarize(found: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return medians by run, against one process (ratios within a repeat), theory and plan."""
    import torch

    from detox.plan.machine import measured_memory_rate

    runs = runs_of(arguments.processes)
    of = {run: [own for own in found if own["run"] == run.name] for run in runs}
    alone = of[runs[0]]
    work = planned_update(runs[0], arguments, 1.0, math.inf, math.inf).compute
    gflops = work / median(alone, lambda own: own["seconds"]["total"])
    memory_rate = measured_memory_rate(torch.device("cpu"), getattr(torch, arguments.dtype))
    summary = {}
    for run, own in of.items():
        link = math.inf if run.processes == 1 else median(own, lambda made: made["link_gb_per_second"])
        planned = planned_update(run, arguments, gflops, memory_rate, link)
        totals = [made["seconds"]["total"] for made in own]
        grown = run.processes if run.scaling == "weak" else 1
        speed = [grown * one["seconds"]["total"] / total for one, total in zip(alone, totals, strict=True)]
        summary[run.name] = {
            "seconds": {name: median(own, lambda made, name=name: made["seconds"][name]) for name in own[0]["seconds"]},
            "range": [min(totals), max(totals)],
            "cpu_seconds": median(own, lambda made: made["cpu_seconds"]),
            "times_as_fast": statistics.median(speed),
            "times_as_fast_range": [min(speed), max(speed)],
            "bytes_sent": median(own, lambda made: made["bytes_sent"]),
            "gradient_bytes": planned.gradient_bytes,
            "peak_rss_mb": median(own, lambda made: made["peak_rss_mb"]),
            "planned_seconds": planned.seconds,
            "planned_peak_mb": median(own, lambda made: made["planned_peak_mb"]),
        }
        if run.processes > 1:
            summary[run.name]["link_gb_per_second"] = link
    return summary | {"gflops_of_one": gflops, "memory_gb_per_second": memory_rate}


def median(own: Sequence[dict[str, Any]], number: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(number(made) for made in own)


def table(found: dict[str, Any]) -> str:
    """Return a Markdown table of a measurement."""
    summary = found["summary"]
    lines = [
        f"| scaling, processes | {' | '.join(PHASES)} | total (range), s | planned, s | CPU s | times as fast | "
        "exchanged (gradients), MB | peak RSS (planned), MB |",
        "|" + "---|" * (len(PHASES) + 7),
    ]
    for run in runs_of(found["settings"]["processes"]):
        row = summary[run.name]
        cells = [
            *(f"{row['seconds'][phase]:.2f}" for phase in PHASES),
            f"{row['seconds']['total']:.2f} ({row['range'][0]:.1f} to {row['range'][1]:.1f})",
            f"{row['planned_seconds']:.2f}",
            f"{row['cpu_seconds']:.1f}",
            f"{row['times_as_fast']:.2f}",
            f"{row['bytes_sent'] / 1e6:.2f} ({row['gradient_bytes'] / 1e6:.2f})",
            f"{row['peak_rss_mb']:,.0f} ({row['planned_peak_mb']:,.0f})",
        ]
        lines.append(f"| {run.name} | " + " | ".join(cells) + " |")
    rate, reading = summary["gflops_of_one"], summary["memory_gb_per_second"]
    links = [summary[run.name]["link_gb_per_second"] for run in runs_of(found["settings"]["processes"])[1:]]
    said = (
        f"The plan takes the {rate:,.1f} GFLOP a second that one process reached, {reading:.1f} GB of weights a second"
    )
    if links:
        said += f" and {min(links):.2f} to {max(links):.2f} GB a second between processes, as measured"
    return "\n".join([*lines, "", said + "."])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=(1, 2), help="1 first")
    parser.add_argument("--shape", choices=sorted(ppo_step.SHAPES), default="small", help="tiny is for a look")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the frozen weights")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16, help="of all processes (strong) or of each (weak)")
    parser.add_argument("--minibatch-size", type=int, default=8, help="likewise")
    parser.add_argument("--prompt-tokens", type=int, nargs=2, default=(60, 400), help="shortest and longest prompt")
    parser.add_argument("--new-tokens", type=int, default=48, help="of every response; its end is never drawn")
    parser.add_argument("--output", type=Path, help="write everything that was measured to this JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.processes[0] != 1:
        parser.error("--processes must begin with 1, which the others are compared with")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.child:
        scaling, processes = arguments.child.split()
        found = run_child(Run(scaling, int(processes)), arguments)
        print(json.dumps(found))  # the main process alone speaks
        return
    found = measure(arguments)
    print(table(found))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
