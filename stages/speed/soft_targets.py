"""Speed of soft targets: the teacher's scores beside its sampling, and the divergence in a training step.

Scoring reads every sampled text once, as synthesis would if all were kept. It is compared with asking vLLM for the same log-probabilities
while it samples. The teacher is the miniature's, in vLLM; on a CPU, reading a token costs as much as writing one. The step is that of a
student with a vocabulary of 152,000 in the shape of Qwen2.5-0.5B, with and without soft targets.

Axes: J positions with soft targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.generation.vllm_engine import running_llm
from pipeline.generation.vllm_thread import Driver
from pipeline.model_folders import load_tokenizer
from pipeline.perspectives.perspective import load_perspectives
from pipeline.prompt_rendering import prompt_tokens, rationale_tokens, teacher_prompt
from pipeline.questions.procedural import ask, distinct
from pipeline.student.batch import TokenRow, batch, rationale_spans
from pipeline.student.token_losses import StudentLosses, losses_of
from pipeline.teacher_scores.scores import Given
from pipeline.teacher_scores.vllm_scores import VllmScores
from stages.speed.memory import LIKELY, VOCABULARY
from stages.speed.sampling import PROMPTS, TEACHER
from stages.speed.timing import Once, Ratio, rates, ratio
from stages.speed.workload import random_targets

ENGINE: Final = EngineConfig(kind="vllm", dtype="float32", max_context=512, kv_cache_gib=0.5)
_ROWS: Final = 4
_TOKENS: Final = 64
"""Tokens of a row of the step."""


def scores_and_sampling(questions: int, repeats: int, say: Callable[[str], None]) -> dict[str, Ratio]:
    """Time of scoring texts, and of sampling them with their log-probabilities captured, each relative to sampling alone."""
    from vllm import SamplingParams

    teacher = LocalModel(path=TEACHER, chat=False)
    tokenizer = load_tokenizer(teacher)
    asked = [ask(problem) for problem in distinct("dial", "train", questions, seed=0)]
    prompts = [teacher_prompt(PROMPTS, text, item) for text in asked for item in load_perspectives(None)]
    requests = [{"prompt_token_ids": prompt_tokens(tokenizer, prompt, None)} for prompt in prompts]
    texts: list[str] = []

    def sample(likely: int) -> float:
        limits: dict[str, Any] = {"temperature": 0.7, "max_tokens": 160, "logprobs": likely, "flat_logprobs": likely > 0}
        outputs = driver.outputs(requests, [SamplingParams(seed=number, **limits) for number in range(len(requests))])
        texts[:] = [output.outputs[0].text for output in outputs]
        return 1.0

    def score() -> float:
        given = [Given(prompt, rationale_tokens(tokenizer, text)) for prompt, text in zip(prompts, texts, strict=True)]
        VllmScores(tokenizer, driver, teacher, ENGINE.max_context).score(given, LIKELY)
        return 1.0

    with running_llm(ENGINE, teacher, max_logprobs=LIKELY) as llm:
        driver = Driver(llm, ENGINE.stall_seconds)
        try:
            sides = {"sampling": lambda: sample(0), "capturing": lambda: sample(LIKELY), "scores": score}
            sample(0)  # any side may be the first
            found = rates(sides, repeats, say)
        finally:
            driver.stop()
    return {
        "scores of all texts / sampling them, in time": ratio(found["sampling"], found["scores"]),
        "sampling with capture / without, in time": ratio(found["sampling"], found["capturing"]),
    }


def steps(repeats: int, say: Callable[[str], None], layers: int = 24, hidden: int = 896) -> Ratio:
    """Time of a forward and a backward pass with soft targets relative to one without."""
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=hidden * 5, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    student = Qwen2ForCausalLM(config)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rows = [TokenRow(list(range(n, n + 1 + _TOKENS)), 1, (2, 3)) for n in range(_ROWS)]
    item, none = batch(rows, rationale_spans(rows), 0), torch.zeros(0, dtype=torch.long)
    soft = random_targets(len(item.labels_P), LIKELY, VOCABULARY)
    model = StudentLosses(student)

    def once(with_targets: bool) -> Once:
        def work() -> float:
            losses_P, _, soft_J = losses_of(model, item, none, torch.device("cpu"), soft if with_targets else None)
            loss = (losses_P + soft_J).mean() if with_targets else losses_P.mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return 1.0

        return work

    found = rates({"with": once(True), "without": once(False)}, repeats, say)
    return ratio(found["without"], found["with"])


def measure(questions: int, repeats: int, say: Callable[[str], None]) -> dict[str, Ratio]:
    """All ratios, by name."""
    return {
        **scores_and_sampling(questions, repeats, say),
        "step with soft targets / without, in time": steps(repeats, say),
    }
