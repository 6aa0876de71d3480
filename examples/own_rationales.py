# %% [markdown]
# # Your own questions and rationales
#
# You have questions, answers and worked solutions, and no teacher. The run imports the solutions, grades them, makes training data of the
# right ones, and trains a student. The questions here are sums, so that the miniature student knows every word; yours are a file each.

# %%
import json
from pathlib import Path

import yaml

from flows.run_records import run_one
from pipeline.config.run import load_config
from pipeline.miniature.demo import FOLDER as MINIATURE

FOLDER = Path("example-runs") / "own"
FOLDER.mkdir(parents=True, exist_ok=True)


def write_lines(name: str, rows: list[dict[str, str]]) -> None:
    """Write rows as JSON lines."""
    (FOLDER / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


# %% [markdown]
# ## The files
#
# A question has an id, a wording and an answer. A rationale names its question; `style` will be its perspective. One of the solutions is
# wrong on purpose.

# %%
numbers = [(first, second) for first in range(1, 10) for second in range(1, 5)]
questions = [
    {
        "id": f"{a}+{b}",
        "question": f"A dial with twenty marks reads [{a}]. Turn it +{b}. What does it read?",
        "answer": str(a + b),
    }
    for a, b in numbers
]
write_lines("train.jsonl", [row for row in questions if int(row["answer"]) % 3])
write_lines("test.jsonl", [row for row in questions if not int(row["answer"]) % 3])

solutions = []
for a, b in numbers:
    if (a + b) % 3:
        said = 3 if (a, b) == (1, 1) else a + b
        long, short = f"Let x={a}. x:={a}+{b}={said}.", f"{a}+{b}={a + b}."
        solutions.append({"of": f"{a}+{b}", "style": "formal", "text": f"{long} The answer is \\boxed{{{said}}}."})
        solutions.append({"of": f"{a}+{b}", "style": "short", "text": f"{short} The answer is \\boxed{{{a + b}}}."})
write_lines("solutions.jsonl", solutions)

# %% [markdown]
# ## The configuration
#
# `teacher: {imported: true}` says that nobody is asked. `columns` says what the columns of your file mean, and `names` which perspective a
# style is.

# %%
engine = {"kind": "transformers", "dtype": "float32", "max_context": 512}
configuration = {
    "name": "own",
    "root": "artifacts",
    "teacher": {"imported": True},
    "student": {"path": str(MINIATURE / "models" / "student"), "chat": False},
    "prompts": {"question": "Question: {{ question }}\nSolution:\n"},
    "questions": {
        "train": [{"kind": "file", "path": "train.jsonl"}],
        "evaluation": [{"name": "test", "group": "id", "source": {"kind": "file", "path": "test.jsonl"}}],
    },
    "sampling": {
        "rationales": {
            "path": "solutions.jsonl",
            "columns": {"question_id": "of", "text": "text", "perspective": "style"},
            "names": {"formal": "formal", "short": "short"},
        }
    },
    "synthesis": {
        "engine": engine,
        "attempts": 1,
        "max_tokens": 64,
        "keep_easy": 1.0,
        "min_perspectives": 1,
        "metanet": {"width": 64, "heads": 4},
    },
    "training": {
        "steps": 6,
        "questions_per_step": 4,
        "questions_per_micro_batch": 4,
        "learning_rate": 2.0e-4,
        "precision": "fp32",
        "max_length": 512,
    },
    "evaluation": {"engine": engine, "max_tokens": 64},
}
file = FOLDER / "own.yaml"
file.write_text(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True))
run = load_config(file)

# %% [markdown]
# ## Import
#
# The sampling stage reads the solutions in place of asking a teacher. The wrong one is found, because every rationale is graded against
# the answer of its question.

# %%
run_one(run, "questions")
sampling = run_one(run, "sampling").artifact
print(sampling.summary["outcomes"])
wrong = [row for row in sampling.table("samples").to_pylist() if row["outcome"] != "correct"]
print(f"not used: {wrong[0]['question_id']}: {wrong[0]['text']} (it says {wrong[0]['answer']}, right is {wrong[0]['gold']})")

# %% [markdown]
# ## Synthesis
#
# What the student will read: the prompt, and one row per rationale.

# %%
synthesis = run_one(run, "synthesis").artifact
print(f"kept {synthesis.summary['kept_rationales']} of {len(solutions)} rationales")
row = synthesis.table("rationales").to_pylist()[0]
print(row["prompt"] + row["rationale"])

# %% [markdown]
# ## A few steps of training
#
# Six steps show that everything fits together; a real training has hundreds. Go on with `mind run own.yaml`, which also asks the base and
# evaluates the student.

# %%
training = run_one(run, "training").artifact
losses = training.table("steps", ["loss_sft"])["loss_sft"].to_pylist()
print("losses:", " ".join(f"{loss:.2f}" for loss in losses))
print("the student:", training.path("student"))
