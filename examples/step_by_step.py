# %% [markdown]
# # The demo step by step
#
# The whole distillation in the miniature world, one stage after the other. It has a tenth of the demo's questions, all of one
# kind, and few training steps at a high rate, so that it takes about a minute. Each stage writes an artifact, and each cell looks into one.

# %%
from collections import Counter
from pathlib import Path

from flows.run_records import run_one
from pipeline.config.run import load_config
from pipeline.miniature.demo import demo_config
from stages.core.plan import ORDER, plan

FOLDER = Path("example-runs")
FOLDER.mkdir(exist_ok=True)

# %% [markdown]
# ## The configuration
#
# A run is a YAML file. The package has the demo's; `mind init --miniature` writes it too. Changes are `KEY=VALUE`, as with
# `mind run --set`. Plain transformers generates here, because vLLM takes longer to start than these few texts need.

# %%
file = FOLDER / "demo.yaml"
file.write_text(demo_config())
engine = "{kind: transformers, dtype: float32, max_context: 512}"
changes = (
    "name=step-by-step",
    "questions.train=[{kind: miniature, family: dial, split: train, count: 40}]",
    "questions.evaluation=["
    "{name: dial, group: id, source: {kind: miniature, family: dial, split: test, count: 40, seed: 1}},"
    "{name: lift, group: ood, source: {kind: miniature, family: lift, split: test, count: 20, seed: 1}}]",
    *(f"{stage}.engine={engine}" for stage in ("sampling", "synthesis", "evaluation")),
    "sampling.tries=1",
    "training.steps=40",
    "training.ranks=1",
    "training.questions_per_step=8",
    "training.questions_per_micro_batch=8",
    "training.learning_rate=1.0e-3",
)
run = load_config(file, changes)

for name, planned in plan(run).items():
    print(f"{name:<11} {planned.fingerprint}  from {', '.join(planned.inputs) or 'the sources'}")

# %% [markdown]
# ## Questions
#
# Sources are read, checked, and kept apart: no question is in both training and evaluation data.

# %%
questions = run_one(run, "questions").artifact
rows = questions.table("questions").to_pylist()
print(Counter((row["role"], row["set"]) for row in rows))
print(rows[-1]["question"], "->", rows[-1]["answer"])

# %% [markdown]
# ## References
#
# Base and teacher answer every evaluation question, for the comparison at the end.

# %%
references = run_one(run, "references").artifact
for model, accuracy in references.summary["accuracy"].items():
    print(f"{model}: {accuracy['group:id']['accuracy']:.0%} right in distribution")

# %% [markdown]
# ## Sampling
#
# The teacher writes rationales for each training question in eight ways of reasoning, the perspectives. Each is graded against the answer.

# %%
sampling = run_one(run, "sampling").artifact
samples = sampling.table("samples").to_pylist()
print(Counter(sample["outcome"] for sample in samples))
first = samples[0]["question_id"]
for sample in samples:
    if sample["question_id"] == first:
        print(f"{sample['perspective']:<15} {sample['outcome']:<8} {sample['text'].rpartition('</think>')[2].strip()}")

# %% [markdown]
# ## Synthesis
#
# Right rationales become training data. The base student tries each question, so that easy ones can be left out. `base_loss` is its loss
# on a rationale; MetaNet, the teaching assistant, learns from such losses which rationales suit the student.

# %%
synthesis = run_one(run, "synthesis").artifact
summary = synthesis.summary
print(f"{summary['kept_rationales']} rationales of {summary['kept_questions']} questions, {summary['tokens_kept']:,} tokens")
print("the base student's loss:", {name: round(loss, 2) for name, loss in summary["base_loss"].items()})

# %% [markdown]
# ## Training
#
# Student and MetaNet train together. `kept` is the number of rationales of a question that MetaNet lets through at a step.

# %%
training = run_one(run, "training").artifact
steps = training.table("steps", ["step", "loss_sft", "kept"]).to_pylist()
for step in (steps[0], steps[len(steps) // 2], steps[-1]):
    print(f"step {step['step']:>2}: loss {step['loss_sft']:.3f}, {step['kept']:.1f} rationales of a question kept")
student = training.path("student")
print("the student's folder has", ", ".join(sorted(path.name for path in student.iterdir())))

# %% [markdown]
# ## Evaluation and report
#
# The student answers the same questions as base and teacher; tests are paired. It is better at what it was taught and forgets the rest:
# forty questions of one kind are too few. The whole demo has 400 of four kinds.

# %%
evaluation = run_one(run, "evaluation").artifact
change = evaluation.summary["student_against_base"]["group:id"]
points, low, high = (round(change[name] * 100) for name in ("change", "low", "high"))
print(f"student - base in distribution: {points:+} points [{low:+}, {high:+}]")

report = run_one(run, "report").artifact
print(*report.summary["findings"], sep="\n")
print("open", report.path("report.html"))

# %% [markdown]
# Every stage is finished, so that running it again opens its artifact:

# %%
print({name: run_one(run, name).reused for name in ORDER})
