"""What people read: the report of an evaluation, its pictures, and a checkpoint handed on with a model card.

What is said stands in `templates/`, one file a page and one a part that pages share; which figures, in these modules:

headline: the verdict in one line, and the alarms
toxicity, quality, comparisons, provenance: their tables
examples: which dialogues are shown; how they look: templates/examples.jinja, templates/report.md
table: a table as text, before it has a form
templating: the templates, in which everything is escaped
pages: the report as HTML and as Markdown
terminal: the report for a terminal
drawing, plots, training_curves: what a drawing is; those of an evaluation; those of a training run
export: a checkpoint merged (by model/policy) and handed on, in a folder or on the hub
plain_model, model_card: what goes there; hub_push: how
ask: two models on dialogues of the user's own; familiarity: whether they are like those of the run
"""
