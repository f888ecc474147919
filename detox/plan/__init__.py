"""What a run will take, by arithmetic on its settings: memory, work, time; no weights are loaded.

task: what is planned.
model_sizes: widths, layers and parameters of its models.
published: their shapes by name, where the hub is not in reach.
memory: bytes of a process, by part.
flops: matrix products of an iteration, by phase.
machine: the rates that a device keeps up.
update_time: how long an update takes on several devices, and what they exchange.
printed: all of it as `--plan` prints it.
"""
