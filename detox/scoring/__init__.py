"""What gives a summary a number.

classifier: a sequence classifier, and what it says of texts.
reward: the score that PPO maximises, a classifier's signal and further terms.
reward_terms: those terms, length, overlap and the user's own.
own_modules: the files that a function of the user's comes from.
toxicity: the measurement of the evaluation, as the `evaluate` library has it.
rouge: overlap with reference summaries, ROUGE and BERTScore.
text_figures: words, length, repetition, copying.
"""
