"""Every setting of the pipeline: frozen dataclasses by concern, presets, validation. No torch, no I/O."""

import dataclasses
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Optional, TypeVar, get_args

from detox.stage.errors import UserError

PROMPT = "Summarize the following conversation.\n\n{dialogue}\n\nSummary: "
Preset = Literal["flan-t5", "demo"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
Estimator = Literal["batch", "gae", "rloo", "grpo", "dr-grpo"]
GROUPED = ("rloo", "grpo", "dr-grpo")
REWARD_TERMS = ("length", "overlap-dialogue", "overlap-reference")
S = TypeVar("S", bound="Stage")


def _require(holds: bool, flag: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"{flag}={value}: {rule}")


def _positive(prefix: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        flag = f"--{prefix}.{name.replace('_', '-')}"
        _require(value is None or 0 < value < math.inf, flag, value, "must be greater than 0")


def _not_negative(prefix: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        flag = f"--{prefix}.{name.replace('_', '-')}"
        _require(value is None or 0 <= value < math.inf, flag, value, "must be 0 or more")


def _is_finite(number: str) -> bool:
    try:
        return math.isfinite(float(number))
    except ValueError:
        return False


@dataclass(frozen=True)
class Base:
    """The summarizer before any fine-tuning; its tokenizer makes the prompts."""

    base: str = "google/flan-t5-base"
    """Encoder-decoder model: a hub name, a local folder, or demo:base."""
    revision: Optional[str] = None
    """Pin the hub model to this commit, tag or branch."""

    def validate(self) -> None:
        _require(bool(self.base.strip()), "--model.base", repr(self.base), "name a hub model or a local folder")


@dataclass(frozen=True)
class Model(Base):
    """The summarizer that PPO starts from: the base with its supervised LoRA checkpoint."""

    adapter: str = "auto"
    """Supervised LoRA checkpoint: a folder, a hub name, `none`, or `auto` (the run's own `lora` folder
    where `training_lora.py` has made one, else none)."""
    adapter_revision: Optional[str] = None
    """Pin the hub adapter to this commit, tag or branch."""


@dataclass(frozen=True)
class Data:
    """The dialogues and how they become prompts."""

    dataset: str = "knkarthick/dialogsum"
    """Hub dataset, local folder or file (CSV of the hub's layout, also with semicolons or tabs; the DialogSum authors'
    JSON lines; Parquet), or demo:corpus."""
    revision: Optional[str] = None
    """Pin the hub dataset to this commit, tag or branch."""
    id_column: str = "id"
    """Column that holds the dialogue's name; rows are numbered where there is no such column."""
    dialogue_column: str = "dialogue"
    """Column that holds the dialogue."""
    summary_column: str = "summary"
    """Column that holds the reference summary."""
    topic_column: str = "topic"
    """Column that holds the topic, by which the report is sliced."""
    prompt: str = PROMPT
    """Instruction around the dialogue; `{dialogue}` marks its place, `\\n` a line break."""
    min_query_tokens: int = 1
    """Drop (and count) prompts of fewer tokens."""
    max_query_tokens: int = 512
    """Drop (and count) prompts of more tokens, unless --data.truncate."""
    max_summary_tokens: int = 128
    """Drop (and count) training and validation examples with longer summaries."""
    truncate: bool = False
    """Shorten long dialogues from their end instead of dropping them; the count is reported."""
    max_examples: Optional[int] = None
    """Keep at most this many examples of each split (the first ones)."""
    validation_fraction: float = 0.1
    """Share of the train split that becomes the validation split where the source has none."""
    test_fraction: float = 0.1
    """Share of the train split that becomes the test split where the source has none."""
    workers: int = 1
    """Processes that tokenize; the result does not depend on it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", self.prompt.replace("\\n", "\n"))

    def validate(self) -> None:
        _require(
            bool(self.dataset.strip()), "--data.dataset", repr(self.dataset), "name a hub dataset, a folder or a file"
        )
        _require(
            self.prompt.count("{dialogue}") == 1, "--data.prompt", repr(self.prompt), "must contain {dialogue} once"
        )
        _positive("data", self, "min_query_tokens", "max_query_tokens", "max_summary_tokens", "max_examples", "workers")
        _require(
            self.min_query_tokens <= self.max_query_tokens,
            "--data.min-query-tokens",
            self.min_query_tokens,
            f"must not exceed --data.max-query-tokens={self.max_query_tokens}",
        )
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            _require(0 < value < 0.5, f"--data.{name.replace('_', '-')}", value, "must lie between 0 and 0.5")


@dataclass(frozen=True)
class Lora:
    """Supervised fine-tuning of a LoRA adapter on the reference summaries."""

    r: int = 16
    """Rank."""
    alpha: int = 32
    """Scaling: the adapter's output is multiplied by alpha / r."""
    dropout: float = 0.05
    """Share of the adapter's inputs left out at random."""
    targets: str = "all-linear"
    """`all-linear`, or names of linear layers separated by commas (q,v)."""
    epochs: float = 3.0
    """Passes over the training split."""
    max_steps: Optional[int] = None
    """Stop after so many optimizer steps."""
    batch_size: int = 16
    """Examples in one optimizer step."""
    learning_rate: float = 1e-3
    """At the start; it falls to 0 over the run."""

    def validate(self) -> None:
        _positive("lora", self, "r", "alpha", "epochs", "max_steps", "batch_size", "learning_rate")
        _require(0 <= self.dropout < 1, "--lora.dropout", self.dropout, "must lie in [0, 1)")


@dataclass(frozen=True)
class Reward:
    """What the score of a summary is made of: the classifier's raw logit of one label, and further terms."""

    model: str = "facebook/roberta-hate-speech-dynabench-r4-target"
    """Sequence classifier: a hub name, a local folder, or demo:reward."""
    revision: Optional[str] = None
    """Pin the hub model to this commit, tag or branch."""
    label: str = "nothate"
    """Name of the label to maximise, as in the model's config."""
    signal: Literal["logit", "logprob", "probability"] = "logit"
    """`logit` keeps a gradient of reward where `probability` saturates."""
    batch_size: int = 16
    """Summaries scored at once."""
    weight: float = 1.0
    """Of the classifier in the score, a weighted sum."""
    extra: tuple[str, ...] = ()
    """Further terms of it, NAME=WEIGHT each: `length` (minus the relative deviation from the reference's words),
    `overlap-dialogue` (share of the content words that the dialogue has, 0 to 1), `overlap-reference` (ROUGE-L F1,
    0 to 1), or a function of your own as module:function or file.py:function. A weight of 0 only records it."""

    @property
    def terms(self) -> dict[str, float]:
        """Further terms by name, with their weights."""
        return {name: float(weight) for name, _, weight in (term.rpartition("=") for term in self.extra)}

    def describe(self) -> str:
        """Return the sum for people."""
        parts = {f"{self.signal} of {self.label!r} by {self.model}": self.weight, **self.terms}
        return " + ".join(name if weight == 1 else f"{weight:g} * {name}" for name, weight in parts.items())

    def validate(self) -> None:
        _require(bool(self.model.strip()), "--reward.model", repr(self.model), "name a hub model or a local folder")
        _require(bool(self.label.strip()), "--reward.label", repr(self.label), "name a label of the reward model")
        _positive("reward", self, "batch_size")
        _not_negative("reward", self, "weight")
        for term in self.extra:
            name, _, weight = term.rpartition("=")
            _require(_is_finite(weight), "--reward.extra", repr(term), "write NAME=WEIGHT, such as length=0.05")
            source, _, function = name.rpartition(":")
            _require(
                name in REWARD_TERMS or bool(source and function.isidentifier()),
                "--reward.extra",
                repr(term),
                f"choose {', '.join(REWARD_TERMS)}, module:function or file.py:function",
            )
        names = [term.rpartition("=")[0] for term in self.extra]
        _require(len(set(names)) == len(names), "--reward.extra", " ".join(self.extra), "name each term once")


@dataclass(frozen=True)
class Rollout:
    """How summaries are sampled while training."""

    max_new_tokens: int = 100
    """Longest summary, in tokens, its end-of-sequence token included."""
    temperature: float = 1.0
    """Logits are divided by it."""
    top_k: int = 0
    """Sample among so many of the likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that together have this probability; 1 keeps all."""
    force: bool = False
    """Allow temperature, top-k or top-p that change the distribution; the KL estimate is then wrong."""

    def validate(self) -> None:
        _positive("rollout", self, "max_new_tokens", "temperature")
        _not_negative("rollout", self, "top_k")
        _require(0 < self.top_p <= 1, "--rollout.top-p", self.top_p, "must lie in (0, 1]")
        reason = (
            "samples no longer come from the policy itself, so the KL estimate would be wrong; "
            "leave it, or pass --rollout.force"
        )
        for name, neutral in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0)):
            value = getattr(self, name)
            _require(value == neutral or self.force, f"--rollout.{name.replace('_', '-')}", value, reason)


@dataclass(frozen=True)
class PPO:
    """Proximal policy optimization."""

    updates: int = 20
    """Rollouts, each followed by `ppo_epochs` passes."""
    batch_size: int = 16
    """Summaries in one rollout."""
    samples_per_dialogue: Optional[int] = None
    """Summaries of each dialogue in a rollout, which then has batch size / this many dialogues; None is 4 with `rloo`,
    `grpo` and `dr-grpo`, else 1."""
    minibatch_size: int = 8
    """Examples in one optimizer step."""
    microbatch_size: Optional[int] = None
    """Examples in one forward and backward pass (default: the minibatch); gradients are accumulated."""
    ppo_epochs: int = 4
    """Passes over each rollout."""
    learning_rate: float = 1e-4
    """Of the adapter that PPO trains; with the schedule `kl`, of its first step."""
    schedule: Literal["kl", "linear", "constant"] = "kl"
    """`kl` sets the learning rate so that each update moves the policy by `step_kl`; `linear` lets it fall to 0 over
    the run; `constant` leaves it."""
    step_kl: float = 0.02
    """KL (nats a token) of the policy before an update from the policy after it that the schedule `kl` aims at; over
    the second half of the run it falls towards 0."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    max_grad_norm: float = 1.0
    """Clip the gradient of each optimizer step to this norm."""
    kl_coef: float = 0.2
    """Weight of the KL penalty against the reference."""
    kl_penalty: Literal["k1", "k3", "full"] = "k1"
    """Estimator of the penalty a token: log-ratio, Schulman's k3, or the exact sum over the vocabulary."""
    kl_control: Literal["fixed", "adaptive"] = "fixed"
    """Keep the weight of the penalty, or steer it towards `kl_target`."""
    kl_target: float = 6.0
    """KL a summary, in nats, that adaptive control steers to."""
    kl_horizon: int = 10_000
    """Examples over which adaptive control acts."""
    advantages: Estimator = "rloo"
    """What a summary is compared with. Its score, with the samples of its dialogue: `rloo`, the mean of the others;
    `dr-grpo`, that of all; `grpo`, that of all, in units of their standard deviation; and its KL penalty with the
    rollout's others. Or its return: `batch`, with the mean of the rollout's other summaries; `gae`, with what the
    value head predicts (generalized advantage estimation)."""
    gamma: float = 1.0
    """Discount a token."""
    lam: float = 0.95
    """Lambda of generalized advantage estimation."""
    whiten_advantages: bool = True
    """Bring the advantages of a rollout to mean 0 and variance 1, or less (`whiten_memory`)."""
    whiten_memory: float = 0.9
    """How much of the variance that whitening takes for usual comes from earlier rollouts; advantages that vary less
    than that are not blown up. 0 whitens each rollout by itself."""
    clip_range: float = 0.2
    """Clip of the probability ratio."""
    value_clip_range: Optional[float] = None
    """Clip of the value's change in one update; None leaves it free."""
    vf_coef: float = 1.0
    """Weight of the value loss."""
    value_learning_rate: Optional[float] = 1e-4
    """Learning rate of the value head; None takes `learning_rate`."""
    value_reads_detached: bool = True
    """The value head's gradient stays out of the policy, where it would drown the reward's."""
    value_trust: bool = True
    """Give the value head the weight in the advantages that is the share of variance it explained in the last rollouts;
    with none, `gae` is `batch`."""
    value_refit: int = 8
    """After each update, set the value head by ridge regression to the returns of so many last rollouts; 0 trains it
    by gradient descent instead."""
    value_warmup: int = 0
    """Summaries, rounded up to whole rollouts, that are scored before the first update to fit the value head alone."""
    score_normalize: bool = False
    """Subtract the running mean of the scores."""
    score_scale: bool = False
    """Divide the scores by their running standard deviation."""
    score_clip: Optional[float] = 10.0
    """Clip scores to this absolute value."""
    unfinished_penalty: float = 1.0
    """Taken off the score of a summary that does not end within the limit of tokens."""
    early_stop_kl: Optional[float] = None
    """End an update's passes once the policy has moved this far from the rollout (nats a token)."""
    max_ref_kl: Optional[float] = 50.0
    """KL a summary from the reference, in nats (`objective/ref_kl_k1`), past which the policy counts as collapsed; so
    does a rollout whose summaries are all empty or all the same."""
    on_collapse: Literal["stop", "warn"] = "stop"
    """`stop` ends a collapsed run with its last checkpoint whole; `warn` says so and goes on."""
    lora_r: int = 16
    """Rank of the adapter that PPO trains."""
    lora_alpha: int = 32
    """Scaling: the adapter's output is multiplied by alpha / r."""
    lora_scope: Literal["decoder", "all"] = "decoder"
    """With `decoder`, the encoder runs once an update."""
    lora_targets: str = "all-linear"
    """`all-linear`, or names of linear layers separated by commas (q,v)."""

    def share(self, processes: int) -> "PPO":
        """Return the settings of one of several processes: its part of each batch and minibatch."""
        minibatch = self.minibatch_size // processes
        return replace(
            self,
            batch_size=self.batch_size // processes,
            minibatch_size=minibatch,
            microbatch_size=math.gcd(minibatch, self.effective_microbatch),
        )

    @property
    def samples(self) -> int:
        """Of each dialogue in a rollout."""
        return self.samples_per_dialogue or (4 if self.advantages in GROUPED else 1)

    @property
    def dialogues(self) -> int:
        """Of one rollout."""
        return self.batch_size // self.samples

    @property
    def effective_microbatch(self) -> int:
        return min(self.microbatch_size or self.minibatch_size, self.minibatch_size)

    def _validate_estimator(self) -> None:
        rule = f"must divide --ppo.batch-size={self.batch_size}"
        _require(self.batch_size % self.samples == 0, "--ppo.samples-per-dialogue", self.samples, rule)
        if self.advantages in GROUPED:
            rule = "compares samples of one dialogue; pass --ppo.samples-per-dialogue 2 or more"
            _require(self.samples > 1, "--ppo.advantages", self.advantages, rule)
            _require(self.gamma == 1, "--ppo.gamma", self.gamma, f"must be 1 with --ppo.advantages {self.advantages}")
        if self.advantages == "batch":
            rule = "compares the summaries of a rollout; pass --ppo.batch-size 2 or more"
            _require(self.batch_size > 1, "--ppo.advantages", self.advantages, rule)
        _require(
            self.value_warmup == 0 or self.advantages == "gae",
            "--ppo.value-warmup",
            self.value_warmup,
            "fits the value head, which only --ppo.advantages gae uses",
        )

    def validate(self) -> None:
        _positive(
            "ppo", self, "updates", "batch_size", "minibatch_size", "microbatch_size", "ppo_epochs", "learning_rate"
        )
        _positive("ppo", self, "adam_eps", "max_grad_norm", "kl_target", "kl_horizon", "clip_range", "value_clip_range")
        _positive("ppo", self, "value_learning_rate", "score_clip", "early_stop_kl", "max_ref_kl", "step_kl")
        _positive("ppo", self, "lora_r", "lora_alpha", "samples_per_dialogue")
        _not_negative("ppo", self, "kl_coef", "vf_coef", "value_refit", "value_warmup", "unfinished_penalty")
        _require(0 < self.gamma <= 1, "--ppo.gamma", self.gamma, "must lie in (0, 1]")
        _require(0 <= self.whiten_memory < 1, "--ppo.whiten-memory", self.whiten_memory, "must lie in [0, 1)")
        _require(0 <= self.lam <= 1, "--ppo.lam", self.lam, "must lie in [0, 1]")
        self._validate_estimator()
        _require(
            self.batch_size % self.minibatch_size == 0,
            "--ppo.minibatch-size",
            self.minibatch_size,
            f"must divide --ppo.batch-size={self.batch_size}",
        )
        _require(
            self.minibatch_size % self.effective_microbatch == 0,
            "--ppo.microbatch-size",
            self.microbatch_size,
            f"must divide --ppo.minibatch-size={self.minibatch_size}",
        )


@dataclass(frozen=True)
class Checkpoints:
    """What is written while training."""

    every: int = 5
    """Updates between checkpoints."""
    keep: int = 4
    """Checkpoints kept; older ones go, but never the best and never the last."""

    def validate(self) -> None:
        _positive("save", self, "every", "keep")


@dataclass(frozen=True)
class Toxicity:
    """The classifier of the toxicity measurement."""

    model: str = "facebook/roberta-hate-speech-dynabench-r4-target"
    """Sequence classifier: a hub name, a local folder, or demo:reward."""
    revision: Optional[str] = None
    """Pin the hub model to this commit, tag or branch."""
    label: str = "hate"
    """Its probability is the toxicity."""

    def validate(self) -> None:
        _require(bool(self.model.strip()), "--toxicity.model", repr(self.model), "name a hub model or a local folder")
        _require(bool(self.label.strip()), "--toxicity.label", repr(self.label), "name a label of that model")


@dataclass(frozen=True)
class Judge:
    """A second classifier, which no stage trains on."""

    model: str = "unitary/toxic-bert"
    """Sequence classifier: a hub name, a local folder, or demo:judge."""
    revision: Optional[str] = None
    """Pin the hub model to this commit, tag or branch."""
    label: str = "toxic"
    """Its probability is the toxicity."""

    def validate(self) -> None:
        _require(bool(self.model.strip()), "--judge.model", repr(self.model), "name a hub model or a local folder")
        _require(bool(self.label.strip()), "--judge.label", repr(self.label), "name a label of that model")


@dataclass(frozen=True)
class Evaluation:
    """What is compared, and how surely."""

    examples: Optional[int] = None
    """At most this many dialogues of the split; None takes all."""
    samples: int = 4
    """Sampled summaries a dialogue; a greedy one comes on top."""
    max_new_tokens: int = 100
    """Longest summary, in tokens."""
    batch_size: int = 64
    """Summaries generated at once."""
    threshold: float = 0.5
    """Toxicity at which a summary counts as toxic."""
    resamples: int = 10_000
    """Random sign flips of the p-value."""
    min_slice: int = 20
    """Slices of fewer dialogues give no figure."""
    best_of: int = 4
    """Samples among which the best-of-n baseline picks by reward; 0 leaves the baselines out."""
    bad_words: str = "default"
    """Words that the filter baseline never lets the reference say: a file with one a line, `default` (a list of
    common English insults), or `demo:insults`."""
    bert_score: Optional[str] = None
    """Encoder for BERTScore, such as roberta-large (needs the package bert-score); None leaves it out."""

    def validate(self) -> None:
        _positive("evaluation", self, "examples", "samples", "max_new_tokens", "batch_size", "resamples", "min_slice")
        _not_negative("evaluation", self, "best_of")
        _require(0 < self.threshold < 1, "--evaluation.threshold", self.threshold, "must lie between 0 and 1")
        _require(
            self.best_of <= 2 * self.samples,
            "--evaluation.best-of",
            self.best_of,
            f"must not exceed twice --evaluation.samples={self.samples}",
        )
        _require(self.resamples >= 100, "--evaluation.resamples", self.resamples, "must be 100 or more")


@dataclass(frozen=True)
class Stage:
    """What every stage has."""

    preset: Preset = "flan-t5"
    """Set of defaults: `flan-t5` (models and data from the hub) or `demo` (embedded, offline)."""
    run: Optional[str] = None
    """Name of the run, the folder below --checkpoints; the preset's name unless given."""
    checkpoints: str = "checkpoints"
    """Folder that holds the runs."""
    seed: int = 0
    """Of everything that is drawn: the demo's dialogues, new weights, orders, samples."""
    overwrite: bool = False
    """Replace what this stage wrote before."""

    @classmethod
    def of_preset(cls: type[S], name: str) -> S:
        return preset(cls, name)

    @property
    def run_name(self) -> str:
        return self.run or self.preset

    def validate(self) -> None:
        _require(0 <= self.seed < 2**31, "--seed", self.seed, "must lie in 0 .. 2147483647")
        _require(
            re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", self.run_name) is not None,
            "--run",
            self.run_name,
            "use letters, digits, '.', '_' and '-' only, at most 100 of them",
        )
        _require(bool(self.checkpoints), "--checkpoints", repr(self.checkpoints), "name a folder")
        for setting in dataclasses.fields(self):
            validate = getattr(getattr(self, setting.name), "validate", None)
            if validate is not None:
                validate()


@dataclass(frozen=True)
class DeviceStage(Stage):
    """A stage that computes."""

    device: str = "auto"
    """`cuda`, `cuda:N`, `mps`, `cpu`, or `auto`: the first of them that is there."""
    threads: Optional[int] = None
    """Threads on the CPU; None leaves the choice to torch."""

    def validate(self) -> None:
        _require(
            re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,2})?", self.device) is not None,
            "--device",
            self.device,
            "choose auto, cpu, mps, cuda or cuda:N",
        )
        _require(self.threads is None or self.threads > 0, "--threads", self.threads, "must be greater than 0")
        super().validate()


@dataclass(frozen=True)
class EngineStage(DeviceStage):
    """A stage that generates summaries."""

    engine: Literal["auto", "hf", "packed"] = "auto"
    """`packed` (padding-free, T5 family), `hf` (any encoder-decoder), or `auto`: packed where it can."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen weights; `auto` is bfloat16 where the device computes in it. What is trained stays float32."""


@dataclass(frozen=True)
class Preparation(Stage):
    """Stage 1: dialogues -> tokenized prompts on disk."""

    model: Base = field(default_factory=Base)
    data: Data = field(default_factory=Data)


@dataclass(frozen=True)
class LoraTraining(DeviceStage):
    """Optional stage: prompts -> supervised LoRA checkpoint."""

    model: Base = field(default_factory=Base)
    lora: Lora = field(default_factory=Lora)


@dataclass(frozen=True)
class PPOTraining(EngineStage):
    """Stage 2: prompts -> PPO checkpoints."""

    model: Model = field(default_factory=Model)
    reward: Reward = field(default_factory=Reward)
    rollout: Rollout = field(default_factory=Rollout)
    ppo: PPO = field(default_factory=PPO)
    save: Checkpoints = field(default_factory=Checkpoints)
    report_to: Literal["none", "tensorboard", "wandb"] = "none"
    """Also report the metrics of every update to a tracker, which must be installed."""
    plan: bool = False
    """Print how much memory this will take, by part, and do nothing; loads no weights."""
    plan_budget_gb: Optional[float] = None
    """With --plan: also say which microbatch fits so many GB."""
    plan_processes: tuple[int, ...] = ()
    """With --plan: for so many devices each (1 2 4 8), memory, what they exchange, and the time of an update."""
    plan_gflops: Optional[float] = None
    """With --plan-processes: 10^9 operations a second that a device keeps up (default: measured or a data sheet's)."""
    plan_memory_rate: Optional[float] = None
    """With --plan-processes: GB a second at which a device reads weights (default: measured or a data sheet's)."""
    plan_link_rate: Optional[float] = None
    """With --plan-processes: GB a second from one device to another (default: 25 for GPUs, else 1.25)."""

    def validate(self) -> None:
        for name in ("plan_budget_gb", "plan_gflops", "plan_memory_rate", "plan_link_rate"):
            value, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            _require(value is None or 0 < value < math.inf, flag, value, "must be greater than 0")
            needs = "plan" if name == "plan_budget_gb" else "plan_processes"
            _require(value is None or bool(getattr(self, needs)), flag, value, f"needs --{needs.replace('_', '-')}")
        for count in self.plan_processes:
            _require(self.plan, "--plan-processes", count, "needs --plan")
            _require(count > 0, "--plan-processes", count, "must be greater than 0")
            _require(
                self.ppo.minibatch_size % count == 0,
                "--plan-processes",
                count,
                f"must divide --ppo.minibatch-size={self.ppo.minibatch_size}, of which each device takes its share",
            )
        super().validate()


@dataclass(frozen=True)
class EvaluationStage(EngineStage):
    """Stage 3: checkpoints -> results and report."""

    checkpoint: tuple[str, ...] = ()
    """Checkpoint folders, such as checkpoints/demo/ppo/step-0020; default: the run's last."""
    split: Literal["test", "validation"] = "test"
    """Part of the prepared dialogues to compare on."""
    select: Optional[float] = None
    """Pick the least toxic of the checkpoints (default: all of the run) that keeps at least this share of the
    reference's ROUGE-L; looks at the validation split only."""
    power: Optional[float] = None
    """Say how many dialogues would show a reduction of this fraction."""
    export: Optional[str] = None
    """Also write the checkpoint to this new folder as one plain transformers model, with tokenizer and model card."""
    push_to_hub: Optional[str] = None
    """Also commit that model to this repository of the hub (owner/name), which is private if it is made for it."""
    ask: Optional[str] = None
    """Only summarize the dialogue in this file (`-`: standard input) with both models; nothing is written."""
    toxicity: Toxicity = field(default_factory=Toxicity)
    judge: Judge = field(default_factory=Judge)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def validate(self) -> None:
        _require(self.select is None or 0 < self.select <= 1, "--select", self.select, "must lie in (0, 1]")
        _require(self.power is None or 0 < self.power < 1, "--power", self.power, "must lie between 0 and 1")
        self._validate_single()
        super().validate()

    def _validate_single(self) -> None:
        """Refuse what an export, a push or a question can't be combined with."""
        flags = ("ask", "export", "push_to_hub")
        given = {f"--{name.replace('_', '-')}": value for name in flags if (value := getattr(self, name)) is not None}
        for flag, value in given.items():
            _require(bool(value.strip()), flag, repr(value), "is empty; leave it out, or say where")
            _require(len(self.checkpoint) <= 1, flag, value, "takes one --checkpoint")
            _require(self.select is None, flag, value, "needs to know the checkpoint; --select first, alone, finds it")
        if self.ask is not None:
            alone = [flag for flag in given if flag != "--ask"] + ["--power"] * (self.power is not None)
            _require(not alone, "--ask", self.ask, f"evaluates nothing; leave out {' and '.join(alone)}")
        _require(
            self.push_to_hub is None
            or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", self.push_to_hub, re.ASCII) is not None,
            "--push-to-hub",
            self.push_to_hub,
            "name a repository as owner/name",
        )


_DEMO: dict[type[Stage], dict[str, Any]] = {
    Preparation: dict(
        model=Base(base="demo:base"),
        data=Data(dataset="demo:corpus", max_query_tokens=256, max_summary_tokens=64),
    ),
    LoraTraining: dict(model=Base(base="demo:base"), lora=Lora(dropout=0.0)),
    PPOTraining: dict(
        model=Model(base="demo:base", adapter="demo:lora"),
        reward=Reward(model="demo:reward"),
        rollout=Rollout(max_new_tokens=48),
        ppo=PPO(kl_coef=0.05),
        dtype="float32",
    ),
    EvaluationStage: dict(
        toxicity=Toxicity(model="demo:reward"),
        judge=Judge(model="demo:judge"),
        evaluation=Evaluation(examples=300, max_new_tokens=48, bad_words="demo:insults"),
        dtype="float32",
    ),
}


STAGES: dict[str, type[Stage]] = {
    "data_preparation.py": Preparation,
    "training_lora.py": LoraTraining,
    "training_ppo.py": PPOTraining,
    "evaluate_ppo.py": EvaluationStage,
}


def preset(stage: type[S], name: str) -> S:
    """Return the settings of `stage` with the defaults of the preset `name`.

    Raises:
        UserError: there is no such preset.
    """
    for known in PRESETS:
        if known == name:
            settings = stage(preset=known)
            return replace(settings, **_DEMO[stage]) if known == "demo" else settings
    raise UserError(f"--preset={name}: choose {' or '.join(PRESETS)}")
