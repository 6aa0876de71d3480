"""A process that starts a training, samples with vLLM, and starts another training: `python -m tests.support.train_sample_train`."""

from __future__ import annotations

import torch

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.generation.engine import Decoding
from pipeline.generation.open_engine import open_engine
from pipeline.model_folders import load_causal_model
from stages.speed.training import config_of, join_alone
from stages.training.rank import engine_of
from tests.support.runs import REPOSITORY


def main() -> None:
    """Print `trained` for each training that has started."""
    student = LocalModel(path=REPOSITORY / "pipeline" / "miniature" / "models" / "student", chat=False)
    config = config_of(student.path, {})
    vllm = EngineConfig.model_validate({"kind": "vllm", "dtype": "float32", "max_context": 512, "kv_cache_gib": 0.3})
    for training in range(2):
        join_alone(config.training)
        engine_of(config.training, load_causal_model(student, torch.float32), 0)
        print("trained", flush=True)
        if not training:
            with open_engine(vllm, student) as engine:
                engine.generate(["Question: 7\nSolution:\n"], [0], Decoding(0.0, 1.0, 8))


if __name__ == "__main__":
    main()
