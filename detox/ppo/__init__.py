"""The method: proximal policy optimization of a summarizer. Begin with `trainer.py`.

The iteration:
    trainer.py            the trainer, with TRL's calls; its first lines name the steps of an iteration
    rollouts.py           1: summaries sampled from the policy
    experience.py         3 and 4: what the update reads: log-probabilities, values, rewards, advantages
    update.py             5: passes of clipped optimizer steps
    value_learning.py     6: what the value head learns before training and after an update
    metrics.py            6: what an update reports; `trl_statistics.py` the same under TRL's names
Its arithmetic, pure functions and running numbers:
    moments.py            mean, variance and whitening of what counts
    rewards.py            KL penalty, shaped scores, rewards a token
    advantages.py         GAE, and the baselines that need no value head
    losses.py             clipped policy loss and value loss, of the tokens that count
    kl_control.py         the weight of the KL penalty
    step_size.py          the learning rate that moves the policy by a wanted KL
    critic.py             the value head's ridge regression, and how far it is trusted
What an iteration stands on:
    ppo_config.py         settings, those of TRL among them; the optimizer and its two learning rates
    state.py              all that changes while training runs
    teacher_forcing.py    what a model says of given responses
    memory.py             smaller pieces where memory runs out
    backtracking.py       back part of the way, where the steps have led too far
    checks.py             the reference is the start, the first ratio is 1
A run of the stage, around its iterations:
    prompt_stream.py      the order of the prompts
    batches.py            the next batch, and what processes tell each other of it
    warm_up.py            the value head's first rollouts
    metrics_log.py        metrics.jsonl, and a line for people
    watch.py              one dialogue's summaries, before and now
    diagnostics.py        warnings where figures leave their range
    collapse.py           when training must end
    trackers.py           TensorBoard and Weights & Biases
    checkpoint.py         a checkpoint written and restored, exactly
    checkpoint_record.py  what a checkpoint says of itself
    resume.py             whether a run may go on from the last one, and what refuses it
    next_step.py          the evaluation to type after it
"""
