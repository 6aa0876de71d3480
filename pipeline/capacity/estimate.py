"""Estimates memory and run time of a configuration from the models' shapes, before loading anything.

Training under ZeRO holds weights, gradients and optimiser state. Each is divided among the ranks from its own ZeRO stage on (Rajbhandari
et al., 2020). Activations of one micro-batch take 34 bytes per token, layer and hidden unit in 16 bits (Korthikanti et al., 2022, without
the attention matrix, which current kernels do not store). How long rows are is known only after synthesis, so there are two figures: an
estimate, with rows of a typical length, and a bound, with every rationale kept and every row at full length. Time is floating point
operations divided by the card's peak rate times a typical utilisation, for rows at full length: a bound.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pipeline.capacity.hub import hub_silence, is_offline
from pipeline.config.engines import EngineConfig
from pipeline.config.models import HubModel, Weights
from pipeline.config.run import RunConfig
from pipeline.config.training import Training

UTILISATION: Final = {"training": 0.4, "generation": 0.2}
"""Typical share of the peak rate that training and large-batch sampling reach (our choice)."""
LOGITS: Final = 3 * 4 * (1 << 26)
"""Bytes of one chunk of fp32 logits, their softmax and their gradient (`pipeline/student/token_losses.py`)."""
TYPICAL: Final = 0.25
"""Tokens of a typical micro-batch, as a share of the most that it can have: rows share their prompts, rationales are short (our choice)."""
MOST_LOGITS: Final = 1 << 27
"""Maximum number of logits of a forward pass of the teacher that scores, unless a single row has more."""
PROCESS: Final = 5 << 27
"""Bytes of a rank before it loads anything: Python, torch and DeepSpeed (0.5 GiB of main memory), and buffers."""
_PEAK: Final = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12, "4090": 165e12}
_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


class ModelShape(NamedTuple):
    """Size of a causal language model; `cached` is the number of values that one token adds to the key-value cache, `linear` the sum of the
    widths of its linear layers.
    """

    parameters: int
    linear: int
    layers: int
    hidden: int
    heads: int
    cached: int
    dtype: str
    vocabulary: int


def shape_of_model(model: Weights) -> ModelShape:
    """The shape from the model's configuration alone; a hub model's configuration is downloaded if it is not cached.

    Raises:
        OSError: the configuration is not available.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    unanswered = isinstance(model, HubModel) and not is_offline() and bool(hub_silence())
    config = AutoConfig.from_pretrained(
        model.location, revision=model.revision, trust_remote_code=False, local_files_only=unanswered
    )
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    dtype = str(config.dtype or torch.float32).removeprefix("torch.")
    config = config.get_text_config()  # nested in a model with further parts, for example for images
    linear = sum(part.in_features + part.out_features for part in network.modules() if isinstance(part, torch.nn.Linear))
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    cached = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width
    parameters = sum({id(value): value.numel() for value in network.parameters()}.values())
    return ModelShape(parameters, linear, config.num_hidden_layers, config.hidden_size, heads, cached, dtype, config.vocab_size)


def typical(parts: dict[str, int]) -> dict[str, int]:
    """What is expected of the parts of a bound (`training_bytes`): less for rows and texts, since few are as long as they may be."""
    return {name: int(TYPICAL * count) if name in ("activations", "own texts") else count for name, count in parts.items()}


def training_bytes(
    shape: ModelShape, training: Training, perspectives: int, teacher: ModelShape | None = None
) -> dict[str, int]:
    """A bound of the bytes that one rank needs, by purpose; offloaded parts are summed under `host`.

    `teacher` is the one that scores the student's own texts in each rank.
    """
    size = 4 if training.precision == "fp32" else 2
    learning = shape.parameters if training.lora is None else training.lora.rank * shape.linear
    # In bf16, DeepSpeed keeps an fp32 master copy and accumulates gradients in fp32.
    parts = {
        "weights": size * shape.parameters // (training.ranks if training.zero_stage >= 3 else 1),
        "gradients": (4 if size == 4 else 6) * learning // (training.ranks if training.zero_stage >= 2 else 1),
        "optimiser": (8 if size == 4 else 12) * learning // (training.ranks if training.zero_stage >= 1 else 1),
    }
    offloaded = {"none": [], "optimizer": ["optimiser"], "all": ["optimiser", "weights"]}[training.offload]
    host = sum(parts.pop(name) for name in offloaded)
    texts = perspectives + (0 if training.on_policy is None else training.on_policy.texts)
    tokens = training.questions_per_micro_batch * texts * training.max_length
    of_layer = 17 * size * shape.hidden
    layers = shape.layers * size * shape.hidden + of_layer if training.gradient_checkpointing else shape.layers * of_layer
    parts |= {
        "activations": tokens * layers,
        "logits": LOGITS,
        "process": PROCESS,
        **_own_texts_bytes(shape, training, teacher),
    }
    return {**parts, **({"host": host} if host else {})}


def _own_texts_bytes(shape: ModelShape, training: Training, teacher: ModelShape | None) -> dict[str, int]:
    """What on-policy distillation adds: cache and prompts' logits of texts that are written together, and the teacher with its logits."""
    policy = training.on_policy
    if policy is None:
        return {}
    size, prompts = 4 if training.precision == "fp32" else 2, training.max_length - policy.max_tokens
    found = {"own texts": size * policy.rows * (training.max_length * shape.cached + prompts * shape.vocabulary)}
    if teacher is not None:
        text = policy.max_tokens * teacher.vocabulary
        written = max(text, min(policy.engine.batch * text, MOST_LOGITS))
        size = _BYTES[teacher.dtype if policy.engine.dtype == "auto" else policy.engine.dtype]
        found["teacher"] = size * teacher.parameters + 3 * 4 * written
    return found


class ServingMemory(NamedTuple):
    """A model in vLLM, per GPU: bytes of its weights, and bytes of the cache of one sequence at maximum length."""

    weights: int
    sequence: int


def serving(shape: ModelShape, engine: EngineConfig) -> ServingMemory:
    """Memory of an engine on each of its GPUs."""
    size = _BYTES[shape.dtype if engine.dtype == "auto" else engine.dtype]
    return ServingMemory(
        size * shape.parameters // engine.tensor_parallel,
        size * shape.cached * engine.max_context // engine.tensor_parallel,
    )


def peak(card: str) -> float | None:
    """Peak FLOP/s of a GPU in 16 bits without sparsity, from the vendor's data sheet; None if not listed."""
    return next((value for name, value in _PEAK.items() if name in card), None)


class Hours(NamedTuple):
    """Estimated hours of two stages on these GPUs: sampling per 1,000 questions, and training for all steps."""

    sampling: float
    training: float


def hours(run: RunConfig, teacher: ModelShape, student: ModelShape, perspectives: int, card: float) -> Hours:
    """Upper bounds except for retried samples: every sample at maximum length, all rationales of every question kept."""
    sampled = 1000 * perspectives * run.sampling.samples * run.sampling.max_tokens
    generated = 2 * teacher.parameters * sampled / (UTILISATION["generation"] * card * run.sampling.engine.cards)
    training = run.training
    trained = training.steps * training.questions_per_step * perspectives * training.max_length
    passes = 8 if training.gradient_checkpointing else 6
    learned = passes * student.parameters * trained / (UTILISATION["training"] * card * training.ranks)
    return Hours(generated / 3600, learned / 3600)
