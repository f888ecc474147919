"""The embedded default: dialogues, labelled sentences and the small models that were trained on them.

scenes.py          the sixteen scenes of the dialogues
corpus.py          the grammar that writes dialogues and summaries from them
sentence_forms.py  the words and the forms of the labelled sentences
sentences.py       the labelled sentences, for the reward model, the judge and their test
build.py           a script that trains the demo's models, with all wings
models/            what it trained
"""
