"""Parts of a step of on-policy distillation: the student writes, the teacher scores every token, the divergence is minimised.

On a CPU the models are the miniature's, as in the experiment; `scripts/gpu/teacher.py` measures the same parts in real shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.config.models import LocalModel
from pipeline.config.soft_targets import Divergence
from pipeline.generation.engine import Decoding, untold
from pipeline.generation.transformers_engine import TransformersEngine
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.questions.procedural import ask, distinct
from pipeline.student.attention import ROWS, own_attention
from pipeline.student.batch import TokenRow
from pipeline.student.teacher_divergence import TopTokens
from pipeline.student.token_losses import StudentLosses, evaluating
from pipeline.teacher_scores.scores import Given, Scores
from pipeline.teacher_scores.transformers_scores import TransformersScores
from pipeline.training.micro_batch import OwnText, assemble_own, own_losses
from pipeline.training.student_engine import StudentEngine
from stages.speed.memory import LIKELY
from stages.speed.timing import Once, Ratio, rates, ratio
from stages.speed.training import PlainEngine
from stages.speed.workload import Lengths, make_set

STUDENT: Final = Path(__file__).parents[2] / "pipeline" / "miniature" / "models" / "student"
_TEACHER: Final = STUDENT.with_name("teacher")
_TEXTS: Final = 32
_WRITTEN: Final = 160
"""Longest text, in tokens."""


def parts(engine: StudentEngine, teacher: Any, tokenizer: Any, prompts: Sequence[str], written: int) -> dict[str, Once]:
    """What a step does, in order: `writing` at most `written` tokens to each prompt, `scoring` them, and `learning` from the scores.

    Each part uses what the one before it found last. The work is counted in steps.
    """
    student, model = engine.module.student, LocalModel(path=STUDENT, chat=False)
    asked = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    scores = TransformersScores(teacher, tokenizer, model, len(prompts))
    data = make_set(1, 1, Lengths(16, 16), len(tokenizer))
    texts: list[list[int]] = []
    scored: list[tuple[list[int], Scores]] = []

    def writing() -> float:
        with evaluating(student), own_attention(student):
            context = max(map(len, asked)) + written
            writer = TransformersEngine(student, tokenizer, model, len(asked), context, untold)
            texts[:] = writer.write(asked, range(len(asked)), Decoding(1.0, 1.0, written))
        return 1.0

    def scoring() -> float:
        given = [Given(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        scored[:] = zip(texts, scores.score(given, LIKELY), strict=True)
        return 1.0

    def learning() -> float:
        found = []
        for number, (prompt, (text, one)) in enumerate(zip(asked, scored, strict=True)):
            row = TokenRow([*prompt, *text], len(prompt), (len(prompt), len(prompt)))
            soft = TopTokens(torch.from_numpy(one.ids_TC), torch.from_numpy(one.logprobs_TC))
            found.append(OwnText(number, row, soft))
        loss = own_losses(engine, assemble_own(data, "rows", found), Divergence(kind="reverse_kl")).mean()
        engine.backward(loss, scale_wrt_gas=False)
        engine.step()
        return 1.0

    return {"writing": writing, "scoring": scoring, "learning": learning}


def measure(repeats: int, say: Callable[[str], None]) -> dict[str, Ratio]:
    """Times of writing and of scoring relative to learning, for the miniature models."""
    student = load_causal_model(LocalModel(path=STUDENT, chat=False), torch.float32, ROWS).train()
    teacher = load_causal_model(LocalModel(path=_TEACHER, chat=False), torch.float32).eval()
    prompts = [f"Question: {ask(problem)}\nSolution:\n" for problem in distinct("dial", "train", _TEXTS, seed=0)]
    engine = PlainEngine(StudentLosses(student), clip=1.0)
    sides = parts(engine, teacher, load_tokenizer(LocalModel(path=STUDENT, chat=False)), prompts, _WRITTEN)
    for side in sides.values():
        side()  # each needs what the one before it found
    found = rates(sides, repeats, say)
    return {
        f"{name} own texts / learning from them, in time": ratio(found["learning"], found[name])
        for name in ("writing", "scoring")
    }
