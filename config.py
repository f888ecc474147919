"""Every setting of the pipeline: frozen dataclasses by concern, presets, validation. No torch, no I/O."""

import dataclasses
import math
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Optional, TypeVar, get_args

from detox.stage.errors import UserError
from detox.stage.rules import (
    Checked,
    NotNegative,
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    Rule,
    Share,
    ShareBelowOne,
    between,
    is_finite,
    matching,
    named,
)

PROMPT = "Summarize the following conversation.\n\n{dialogue}\n\nSummary: "
Preset = Literal["flan-t5", "demo"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
Estimator = Literal["batch", "gae", "rloo", "grpo", "dr-grpo"]
GROUPED = ("rloo", "grpo", "dr-grpo")
REWARD_TERMS = ("length", "overlap-dialogue", "overlap-reference")
ModelName = Annotated[str, named("name a hub model or a local folder")]
LabelName = Annotated[str, named("name a label of that model")]
Revision = Annotated[str, named("name a commit, tag or branch, or leave it out")]
NOT_NONE = Rule(
    lambda name: name != "none",
    "can't be left out: it tells whether the reward model was only outwitted; name another one",
)
Device = Annotated[str, matching(r"auto|cpu|mps|cuda(:\d{1,2})?", "choose auto, cpu, mps, cuda or cuda:N")]
Repository = Annotated[str, matching(r"[\w-][\w.-]*/[\w-][\w.-]*", "name a repository as owner/name")]
S = TypeVar("S", bound="Stage")


@dataclass(frozen=True)
class Base(Checked, group="model"):
    """The summarizer before any fine-tuning; its tokenizer makes the prompts."""

    base: ModelName = "google/flan-t5-base"
    """Encoder-decoder model: a hub name, a local folder, or demo:base."""
    revision: Optional[Revision] = None
    """Pin the hub model to this commit, tag or branch."""


@dataclass(frozen=True)
class Model(Base):
    """The summarizer that PPO starts from: the base with its supervised LoRA checkpoint."""

    adapter: Annotated[str, named("name a folder or hub model, or say auto or none")] = "auto"
    """Supervised LoRA checkpoint: a folder, a hub name, `none`, or `auto` (the run's own `lora` folder
    where `training_lora.py` has made one, else none)."""
    adapter_revision: Optional[Revision] = None
    """Pin the hub adapter to this commit, tag or branch."""


@dataclass(frozen=True)
class Data(Checked, group="data"):
    """The dialogues and how they become prompts."""

    dataset: Annotated[str, named("name a hub dataset, a folder or a file")] = "knkarthick/dialogsum"
    """Hub dataset, local folder or file (CSV of the hub's layout, also with semicolons or tabs; the DialogSum authors'
    JSON lines; Parquet), or demo:corpus."""
    revision: Optional[Revision] = None
    """Pin the hub dataset to this commit, tag or branch."""
    id_column: str = "id"
    """Column that holds the dialogue's name; rows are numbered where there is no such column."""
    dialogue_column: str = "dialogue"
    """Column that holds the dialogue."""
    summary_column: str = "summary"
    """Column that holds the target summary."""
    topic_column: str = "topic"
    """Column that holds the topic, which the report shows beside an example."""
    prompt: str = PROMPT
    """Instruction around the dialogue; `{dialogue}` marks its place, `\\n` a line break."""
    min_query_tokens: Positive = 1
    """Drop (and count) prompts of fewer tokens."""
    max_query_tokens: Positive = 512
    """Drop (and count) prompts of more tokens, unless --data.truncate."""
    max_summary_tokens: Positive = 128
    """Drop (and count) training and validation examples with longer summaries."""
    truncate: bool = False
    """Shorten long dialogues from their end instead of dropping them; the count is reported."""
    max_examples: Optional[Positive] = None
    """Keep at most this many examples of each split (the first ones)."""
    validation_fraction: Annotated[float, between(0, 0.5)] = 0.1
    """Share of the train split that becomes the validation split where the source has none; each row is drawn by its
    content, so that of few rows the share may be another."""
    test_fraction: Annotated[float, between(0, 0.5)] = 0.1
    """Share of the train split that becomes the test split where the source has none; drawn likewise."""
    workers: Positive = 1
    """Processes that tokenize; the result does not depend on it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", self.prompt.replace("\\n", "\n"))

    def validate(self) -> None:
        super().validate()
        self.demand(self.prompt.count("{dialogue}") == 1, "prompt", "must contain {dialogue} once", repr(self.prompt))
        rule = f"must not exceed --data.max-query-tokens={self.max_query_tokens}"
        self.demand(self.min_query_tokens <= self.max_query_tokens, "min_query_tokens", rule)


@dataclass(frozen=True)
class Lora(Checked, group="lora"):
    """Supervised fine-tuning of a LoRA adapter on the target summaries."""

    r: Positive = 16
    """Rank."""
    alpha: Positive = 32
    """Scaling: the adapter's output is multiplied by alpha / r."""
    dropout: ShareBelowOne = 0.05
    """Share of the adapter's inputs left out at random."""
    targets: str = "all-linear"
    """`all-linear`, or names of linear layers separated by commas (q,v)."""
    epochs: PositiveFloat = 3.0
    """Passes over the training split."""
    max_steps: Optional[Positive] = None
    """Stop after so many optimizer steps."""
    batch_size: Positive = 16
    """Examples in one optimizer step."""
    learning_rate: PositiveFloat = 1e-3
    """At the start; it falls to 0 over the run."""


@dataclass(frozen=True)
class Reward(Checked, group="reward"):
    """What the score of a summary is made of: the classifier's raw logit of one label, and further terms."""

    model: ModelName = "facebook/roberta-hate-speech-dynabench-r4-target"
    """Sequence classifier: a hub name, a local folder, or demo:reward."""
    revision: Optional[Revision] = None
    """Pin the hub model to this commit, tag or branch."""
    label: Annotated[str, named("name a label of the reward model")] = "nothate"
    """Name of the label to maximise, as in the model's config."""
    signal: Literal["logit", "logprob", "probability"] = "logit"
    """`logit` keeps a gradient of reward where `probability` saturates."""
    batch_size: Positive = 16
    """Summaries scored at once."""
    weight: NotNegativeFloat = 1.0
    """Of the classifier in the score, a weighted sum."""
    extra: tuple[str, ...] = ()
    """Further terms of it, NAME=WEIGHT each: `length` (minus the relative deviation from the target summary's words),
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
        super().validate()
        for term in self.extra:
            name, _, weight = term.rpartition("=")
            self.demand(is_finite(weight), "extra", "write NAME=WEIGHT, such as length=0.05", repr(term))
            source, _, function = name.rpartition(":")
            known = name in REWARD_TERMS or bool(source and function.isidentifier())
            rule = f"choose {', '.join(REWARD_TERMS)}, module:function or file.py:function"
            self.demand(known, "extra", rule, repr(term))
        names = [term.rpartition("=")[0] for term in self.extra]
        self.demand(len(set(names)) == len(names), "extra", "name each term once", " ".join(self.extra))


@dataclass(frozen=True)
class Rollout(Checked, group="rollout"):
    """How summaries are sampled while training."""

    max_new_tokens: Positive = 100
    """Longest summary, in tokens, its end-of-sequence token included."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by it."""
    top_k: NotNegative = 0
    """Sample among so many of the likeliest tokens; 0 keeps all."""
    top_p: Share = 1.0
    """Sample among the likeliest tokens that together have this probability; 1 keeps all."""
    force: bool = False
    """Allow temperature, top-k or top-p that change the distribution; the KL estimate is then wrong."""

    def validate(self) -> None:
        super().validate()
        reason = (
            "samples no longer come from the policy itself, so the KL estimate would be wrong; "
            "leave it, or pass --rollout.force"
        )
        for name, neutral in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0)):
            self.demand(getattr(self, name) == neutral or self.force, name, reason)


@dataclass(frozen=True)
class PPO(Checked, group="ppo"):
    """Proximal policy optimization."""

    updates: Positive = 20
    """Rollouts, each followed by `ppo_epochs` passes. A finished run goes on where this is raised; a few more change
    little, as steps get smaller towards the last one (`schedule`)."""
    batch_size: Positive = 16
    """Summaries in one rollout."""
    samples_per_dialogue: Optional[Positive] = None
    """Summaries of each dialogue in a rollout, which then has batch size / this many dialogues; None is 4 with `rloo`,
    `grpo` and `dr-grpo`, else 1."""
    minibatch_size: Positive = 8
    """Examples in one optimizer step."""
    microbatch_size: Optional[Positive] = None
    """Examples in one forward and backward pass (default: the minibatch); gradients are accumulated."""
    ppo_epochs: Positive = 4
    """Passes over each rollout."""
    learning_rate: PositiveFloat = 1e-4
    """Of the adapter that PPO trains; with the schedule `kl`, of its first step."""
    schedule: Literal["kl", "linear", "constant"] = "kl"
    """`kl` sets the learning rate so that each update moves the policy by `step_kl`; `linear` lets it fall to 0 over
    the run; `constant` leaves it."""
    step_kl: PositiveFloat = 0.02
    """KL (nats a token) of the policy before an update from the policy after it that the schedule `kl` aims at; over
    the second half of the run it falls towards 0."""
    adam_eps: PositiveFloat = 1e-5
    """Adam's epsilon."""
    max_grad_norm: PositiveFloat = 1.0
    """Clip the gradient of each optimizer step to this norm."""
    kl_coef: NotNegativeFloat = 0.2
    """Weight of the KL penalty against the reference."""
    kl_penalty: Literal["k1", "k3", "full"] = "k1"
    """Estimator of the penalty a token: log-ratio, Schulman's k3, or the exact sum over the vocabulary."""
    kl_control: Literal["fixed", "adaptive"] = "fixed"
    """Keep the weight of the penalty, or steer it towards `kl_target`."""
    kl_target: PositiveFloat = 6.0
    """KL a summary, in nats, that adaptive control steers to."""
    kl_horizon: Positive = 10_000
    """Examples over which adaptive control acts."""
    advantages: Estimator = "rloo"
    """What a summary is compared with. Its score, with the samples of its dialogue: `rloo`, the mean of the others;
    `dr-grpo`, that of all; `grpo`, that of all, in units of their standard deviation; and its KL penalty with the
    rollout's others. Or its return: `batch`, with the mean of the rollout's other summaries; `gae`, with what the
    value head predicts (generalized advantage estimation)."""
    gamma: Share = 1.0
    """Discount a token."""
    lam: Annotated[float, Rule(lambda value: 0 <= value <= 1, "must lie in [0, 1]")] = 0.95
    """Lambda of generalized advantage estimation."""
    whiten_advantages: bool = True
    """Bring the advantages of a rollout to mean 0 and variance 1, or less (`whiten_memory`)."""
    whiten_memory: ShareBelowOne = 0.9
    """How much of the variance that whitening takes for usual comes from earlier rollouts; advantages that vary less
    than that are not blown up. 0 whitens each rollout by itself."""
    clip_range: PositiveFloat = 0.2
    """Clip of the probability ratio."""
    value_clip_range: Optional[PositiveFloat] = None
    """Clip of the value's change in one update; None leaves it free."""
    vf_coef: NotNegativeFloat = 1.0
    """Weight of the value loss; without effect where there is no value head, or `value_refit` sets it."""
    value_learning_rate: Optional[PositiveFloat] = 1e-4
    """Learning rate of the value head; None takes `learning_rate`. Without effect where there is none, or `value_refit`
    sets it."""
    value_reads_detached: bool = True
    """The value head's gradient stays out of the policy, where it would drown the reward's."""
    value_trust: bool = True
    """Give the value head the weight in the advantages that is the share of variance it explained in the last rollouts;
    with none, `gae` is `batch`."""
    value_refit: NotNegative = 8
    """After each update, set the value head by ridge regression to the returns of its rollout and of so many before it;
    0 trains it by gradient descent instead."""
    value_warmup: NotNegative = 0
    """Summaries, rounded up to whole rollouts, that are scored before the first update to fit the value head alone."""
    score_normalize: bool = False
    """Subtract the running mean of the scores."""
    score_scale: bool = False
    """Divide the scores by their running standard deviation."""
    score_clip: Optional[PositiveFloat] = 10.0
    """Clip scores to this absolute value."""
    unfinished_penalty: NotNegativeFloat = 1.0
    """Taken off the score of a summary that does not end within the limit of tokens."""
    early_stop_kl: Optional[PositiveFloat] = None
    """End an update's passes once the policy has moved this far from the rollout (nats a token)."""
    max_ref_kl: Optional[PositiveFloat] = 50.0
    """KL a summary from the reference, in nats (`objective/ref_kl_k1`), past which the policy counts as collapsed; so
    does a rollout whose summaries are all empty or all the same."""
    on_collapse: Literal["stop", "warn"] = "stop"
    """`stop` ends a collapsed run with its last checkpoint whole; `warn` says so and goes on."""
    lora_r: Positive = 16
    """Rank of the adapter that PPO trains."""
    lora_alpha: Positive = 32
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
        self.demand(self.batch_size % self.samples == 0, "samples_per_dialogue", rule, self.samples)
        if self.advantages in GROUPED:
            rule = "compares samples of one dialogue; pass --ppo.samples-per-dialogue 2 or more"
            self.demand(self.samples > 1, "advantages", rule)
            self.demand(self.gamma == 1, "gamma", f"must be 1 with --ppo.advantages {self.advantages}")
        if self.advantages == "batch":
            rule = "compares the summaries of a rollout; pass --ppo.batch-size 2 or more"
            self.demand(self.batch_size > 1, "advantages", rule)
        rule = "fits the value head, which only --ppo.advantages gae uses"
        self.demand(self.value_warmup == 0 or self.advantages == "gae", "value_warmup", rule)

    def validate(self) -> None:
        super().validate()
        self._validate_estimator()
        rule = f"must divide --ppo.batch-size={self.batch_size}"
        self.demand(self.batch_size % self.minibatch_size == 0, "minibatch_size", rule)
        rule = f"must divide --ppo.minibatch-size={self.minibatch_size}"
        self.demand(self.minibatch_size % self.effective_microbatch == 0, "microbatch_size", rule)


@dataclass(frozen=True)
class Checkpoints(Checked, group="save"):
    """What is written while training."""

    every: Positive = 5
    """Updates between checkpoints."""
    keep: Positive = 4
    """Checkpoints kept in all: the last ones, and the best (score less KL penalty, mean of the updates since the one
    before it); the others are removed, those of a run that goes on too."""


@dataclass(frozen=True)
class Toxicity(Checked, group="toxicity"):
    """The classifier of the toxicity measurement; a run that was trained against another one is measured by that."""

    model: ModelName = Reward.model
    """Sequence classifier: a hub name, a local folder, or demo:reward."""
    revision: Optional[Revision] = None
    """Pin the hub model to this commit, tag or branch."""
    label: LabelName = "hate"
    """Its probability is the toxicity."""


@dataclass(frozen=True)
class Judge(Checked, group="judge"):
    """A second classifier, which no stage trains on."""

    model: Annotated[ModelName, NOT_NONE] = "unitary/toxic-bert"
    """Sequence classifier: a hub name, a local folder, or demo:judge."""
    revision: Optional[Revision] = None
    """Pin the hub model to this commit, tag or branch."""
    label: LabelName = "toxic"
    """Its probability is the toxicity."""


@dataclass(frozen=True)
class Evaluation(Checked, group="evaluation"):
    """What is compared, and how surely."""

    examples: Optional[Positive] = None
    """At most this many dialogues of the split; None takes all."""
    samples: Positive = 4
    """Sampled summaries a dialogue; a greedy one comes on top."""
    max_new_tokens: Positive = Rollout.max_new_tokens
    """Longest summary, in tokens; of a run that was trained with another limit, that one."""
    batch_size: Positive = 64
    """Summaries generated at once."""
    threshold: Annotated[float, between(0, 1)] = 0.5
    """Toxicity at which a summary counts as toxic."""
    resamples: Annotated[Positive, Rule(lambda value: value >= 100, "must be 100 or more")] = 10_000
    """Random sign flips of the p-value."""
    min_slice: Positive = 20
    """Slices of fewer dialogues give no figure."""
    best_of: NotNegative = 4
    """Samples among which the best-of-n baseline picks by reward, up to twice `samples`; 0 leaves the baselines out."""
    bad_words: str = "default"
    """Words that the filter baseline never lets the starting model say: a file with one a line, `default` (a list of
    common English insults), or `demo:insults`."""
    bert_score: Optional[str] = None
    """Encoder for BERTScore, such as roberta-large (needs the package bert-score); None leaves it out."""

    def validate(self) -> None:
        super().validate()
        rule = f"must not exceed twice --evaluation.samples={self.samples}; lower it, or 0 leaves the baselines out"
        self.demand(self.best_of <= 2 * self.samples, "best_of", rule)


@dataclass(frozen=True)
class Stage(Checked):
    """What every stage has."""

    preset: Preset = "flan-t5"
    """Set of defaults: `flan-t5` (models and data from the hub) or `demo` (embedded, offline)."""
    run: Optional[str] = None
    """Name of the run, the folder below --checkpoints; the preset's name unless given."""
    checkpoints: str = "checkpoints"
    """Folder that holds the runs."""
    seed: Annotated[int, Rule(lambda value: 0 <= value < 2**31, "must lie in 0 .. 2147483647")] = 0
    """Of everything that is drawn: the demo's dialogues, new weights, orders, samples."""
    overwrite: bool = False
    """Replace what this stage wrote before, once the new is whole (of training: has a checkpoint); an evaluation of
    other settings stays beside it."""

    @classmethod
    def of_preset(cls: type[S], name: str) -> S:
        return preset(cls, name)

    @staticmethod
    def stages() -> "dict[str, type[Stage]]":
        """Return every stage by its script; a file of settings may serve them all."""
        return STAGES

    @property
    def run_name(self) -> str:
        return self.run or self.preset

    def validate(self) -> None:
        super().validate()
        rule = "use letters, digits, '.', '_' and '-' only, at most 100 of them"
        name = self.preset if self.run is None else self.run
        fits = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) is not None
        self.demand(fits, "run", rule, name)
        self.demand(bool(self.checkpoints), "checkpoints", "name a folder", repr(self.checkpoints))
        for setting in dataclasses.fields(self):
            group = getattr(self, setting.name)
            if isinstance(group, Checked):
                group.validate()


@dataclass(frozen=True)
class DeviceStage(Stage):
    """A stage that computes."""

    device: Device = "auto"
    """`cuda`, `cuda:N`, `mps`, `cpu`, or `auto`: the first of them that is there."""
    threads: Optional[Positive] = None
    """Threads on the CPU; None tries at the start which number is fastest (1 for a narrow model)."""


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
    plan_budget_gb: Optional[PositiveFloat] = None
    """With --plan: also say which microbatch fits so many GB."""
    plan_processes: tuple[int, ...] = ()
    """With --plan: for so many devices each (1 2 4 8), memory, what they exchange, and the time of an update."""
    plan_gflops: Optional[PositiveFloat] = None
    """With --plan-processes: 10^9 operations a second that a device keeps up (default: measured or a data sheet's)."""
    plan_memory_rate: Optional[PositiveFloat] = None
    """With --plan-processes: GB a second at which a device reads weights (default: measured or a data sheet's)."""
    plan_link_rate: Optional[PositiveFloat] = None
    """With --plan-processes: GB a second from one device to another (default: 25 for GPUs, else 1.25)."""

    def validate(self) -> None:
        super().validate()
        for name in ("plan_budget_gb", "plan_gflops", "plan_memory_rate", "plan_link_rate"):
            needs = "plan" if name == "plan_budget_gb" else "plan_processes"
            given = getattr(self, name) is not None
            self.demand(not given or bool(getattr(self, needs)), name, f"needs --{needs.replace('_', '-')}")
        share = f"must divide --ppo.minibatch-size={self.ppo.minibatch_size}, of which each device takes its share"
        for count in self.plan_processes:
            self.demand(self.plan, "plan_processes", "needs --plan", count)
            self.demand(count > 0, "plan_processes", "must be greater than 0", count)
            self.demand(self.ppo.minibatch_size % count == 0, "plan_processes", share, count)


@dataclass(frozen=True)
class EvaluationStage(EngineStage):
    """Stage 3: checkpoints -> results and report."""

    checkpoint: tuple[str, ...] = ()
    """Checkpoint folders such as checkpoints/demo/ppo/step-0020, or step-0020 for one of the run; default: its last."""
    split: Literal["test", "validation"] = "test"
    """Part of the prepared dialogues to compare on."""
    select: Optional[Share] = None
    """Pick, of the checkpoints (default: all of the run) that keep at least this share of the starting model's ROUGE-L,
    the one that the judge finds least toxic; looks at the validation split only."""
    power: Optional[Annotated[float, between(0, 1)]] = None
    """Say how many dialogues would show a reduction of this fraction."""
    export: Optional[str] = None
    """Also write the checkpoint to this new folder as one plain transformers model, with tokenizer and model card."""
    push_to_hub: Optional[Repository] = None
    """Also commit that model to this repository of the hub (owner/name), which is private if it is made for it."""
    ask: Optional[str] = None
    """Only summarize the dialogue in this file (`-`: standard input; at a terminal, one after the other) with both
    models; nothing is written."""
    toxicity: Toxicity = field(default_factory=Toxicity)
    judge: Judge = field(default_factory=Judge)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def validate(self) -> None:
        self._validate_single()
        super().validate()

    def _validate_single(self) -> None:
        """Refuse what an export, a push or a question can't be combined with."""
        given = [name for name in ("ask", "export", "push_to_hub") if getattr(self, name) is not None]
        for name in given:
            value = getattr(self, name)
            self.demand(bool(value.strip()), name, "is empty; leave it out, or say where", repr(value))
            self.demand(len(self.checkpoint) <= 1, name, "takes one --checkpoint")
            rule = "needs to know the checkpoint; --select first, alone, finds it"
            self.demand(self.select is None, name, rule)
        if self.ask is not None:
            others = [*given[1:], *["power"] * (self.power is not None)]
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in others)
            self.demand(not others, "ask", f"evaluates nothing; leave out {flags}")


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
