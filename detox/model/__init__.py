"""What runs a summarizer: found and loaded, adapted by LoRA, encoding, generating and telling log-probabilities.

From a name to a model:
    hub: whether the hub is in reach, and what is fetched from it.
    sources: where a model is (embedded, a folder, the hub), and which one it is.
    weights: files of tensors, safetensors or pickles that hold nothing else.
    tokenizers: those that are whole and fit.
    loading: models that are whole and of the right kind.
    supported: whether a summarizer can be run step by step here.
    adapters: supervised LoRA adapters, put on their base.
    policy: base and adapter merged, for PPO's start and for an export; the fresh LoRA and value head that PPO trains.

Engines:
    engine: the interface that the trainer and the evaluation see; where a response ends, which of its tokens count,
        LoRA merged to generate.
    sampling: how the next token is chosen.
    hugging_face: any encoder-decoder, through its own modules.
    packed_t5: T5 without padding; t5_stacks its blocks, decoding its steps token by token, packing where rows lie,
        layers its linear layers, norms and activation.
    engines: the choice between them.
    logprobs: what is read off a language-model head without its logits.

Machines:
    devices: which one a stage takes, and what is done otherwise on one than on another.
    threads: how many the CPU computes with.
    sharding: frozen weights spread over processes.
    allocator: what the C library does with freed memory, and how many kernels are kept.
"""
