"""One rank of a small training: takes one step with plain SGD at rate 100 and saves the weights before and after.

Started by torch's launcher from `test_gradient.py`, with the folder of a spec; SGD makes the change of the weights the gradient itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers import AutoTokenizer

from pipeline.config.training import Training
from pipeline.model_folders import load_causal_model
from pipeline.student.attention import ROWS
from pipeline.student.token_losses import StudentLosses
from pipeline.training.step import train_step
from pipeline.training.training_set import SoftTargetTable, TrainingSet, context_row, make_row
from stages.training.rank import deepspeed_config, start_training_state
from stages.training.stage_config import Config
from tests.support.training_sets import set_of

RATE = 100.0


def small_set(tokenizer: Any, questions: int, perspectives: int) -> TrainingSet:
    """Rationales of very unequal length, some missing, with random soft targets."""
    generator = torch.Generator().manual_seed(3)
    mask_NK = torch.rand(questions, perspectives, generator=generator) > 0.3
    mask_NK[:, :2] = True
    pairs = {}
    for n, k in mask_NK.nonzero().tolist():
        prompt = tokenizer(f"Question: {n}+{n}? Solution:")["input_ids"]
        text = f"{'Then 1+1=2. ' * (1 + (n * 3 + k * 5) % 7)}So {n}. The answer is \\boxed{{{n}}}."
        row, context = (make(tokenizer, prompt, text, str(n), 512, "test") for make in (make_row, context_row))
        pairs[n, k] = row, context
    features_NKF = torch.randn(questions, perspectives, 16, generator=generator)
    losses_NK = torch.rand(questions, perspectives, generator=generator) * mask_NK
    offsets_NK, tokens = torch.zeros(questions, perspectives, dtype=torch.int64), 0
    for place, (row, _) in pairs.items():
        offsets_NK[place] = tokens
        tokens += len(row.tokens) - row.start
    top = torch.log_softmax(torch.randn(tokens, len(tokenizer), generator=generator), -1).topk(5, -1)
    soft = SoftTargetTable(top.indices.int(), top.values, offsets_NK)
    return set_of(pairs, features_NKF, mask_NK, losses_NK, int(tokenizer.pad_token_id), soft)


def main(folder: Path) -> None:
    spec = json.loads((folder / "spec.json").read_text())
    torch.set_num_threads(1)
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    tokenizer = AutoTokenizer.from_pretrained(spec["config"]["student"]["path"])
    for name, change in spec["variants"].items():
        most = change.pop("most", 1 << 26)
        tree = {**spec["config"], "training": {**spec["config"]["training"], **change}}
        config = Config.model_validate(tree)
        training: Training = config.training
        student = load_causal_model(config.student, torch.float32, ROWS)
        model = StudentLosses(student.train(), most)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        how = deepspeed_config(training)
        if training.zero_stage == 3:
            # So small a student would be held whole by every rank, and nothing gathered.
            how["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=how)
        data = small_set(tokenizer, training.questions_per_step, len(config.perspectives))
        state = start_training_state(config, data, engine, None)
        log = train_step(state, 0)
        states = engine._zero3_consolidated_16bit_state_dict() if training.zero_stage == 3 else engine.module.state_dict()
        if state.rank == 0:
            save_file({key: value.clone().contiguous() for key, value in states.items()}, folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps(log))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
