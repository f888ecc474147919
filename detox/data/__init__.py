"""From dialogues to a prepared dataset of prompts; the names of the files follow the way of a dialogue.

sources.py      where dialogues come from: the hub, a folder, a file or the embedded corpus
splits.py       the three splits, and which of them a dialogue falls into by its hash
readers.py      CSV, JSON and Parquet files as records, each with its file and line; what is told of a broken one
rows.py         records as checked rows: which columns hold what, and text that is text; what is told of a wrong one
duplicates.py   one row a dialogue, with its references; none that an earlier split has
prompts.py      rows as prompts and their tokens; the limits on their number
workers.py      the processes that tokenize, in order
preparation.py  the way from a source to the three splits
counts.py       what was kept, what was dropped and why, what the tokenizer does not know
prepared.py     the prepared dataset on disk, written and read
fingerprint.py  which tokenizer made a prepared dataset
"""
