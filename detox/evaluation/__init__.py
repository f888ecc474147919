"""Is the summarizer civil, and is it still one? Both models on held-out dialogues, and what their summaries show.

What is evaluated:
    checkpoints: which ones, found and checked.
    as_trained: settings that they were trained with, where nothing else is said.
    folders: where their evaluations lie, which are done already, which --overwrite replaces.
    task: dialogues, prompts and models of one evaluation.
    reference: its part that is computed once.
    provenance: what the figures are of, and the commands that give them again.

Summaries:
    summaries: those of a model under given seeds.
    scorers: what marks them.
    bad_words: what a filtered reference may not say.
    examples: the lines of examples.jsonl, in which they stand.
    two_lists: two lists of summaries compared, wherever they come from.

Figures:
    results: results.json, from those lines.
    intervals: how surely a figure is known.
    distribution: how toxic one model's summaries are.
    two_models: what their toxicity shows, and the verdict.
    sign_flips: the test behind its p-value.
    noise: what chance alone would show.
    quality: whether summaries are still summaries.
    slices: parts of the dialogues that are shown apart.
    baselines: what PPO has to beat.
    judge: whether an independent classifier confirms it.
    alarms: what makes the figures untrustworthy.
    power: how many dialogues an effect needs.

Several checkpoints:
    curve: along the distance from the start, and which to take.
    pooling: runs that differ by seed, taken together.
    several_checkpoints: either, and how it is printed.
"""
