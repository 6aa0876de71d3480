# %% [markdown]
# # Reading artifacts with pyarrow and DuckDB
#
# Artifacts are folders of Parquet files and a manifest. No code of MIND is needed to read them. This script reads those of
# `step_by_step.py`; run that first.

# %%
import json
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

ROOT = Path("example-runs") / "artifacts"

# %% [markdown]
# ## From a run's name to its artifacts
#
# `runs/NAME.json` has the fingerprint of each stage, and `<root>/<stage>/<fingerprint>/` is the artifact.

# %%
stages = json.loads((ROOT / "runs" / "step-by-step.json").read_text())["stages"]
folders = {stage: ROOT / stage / fingerprint for stage, fingerprint in stages.items()}
for stage, folder in folders.items():
    manifest = json.loads((folder / "manifest.json").read_text())
    print(f"{stage:<11} {len(manifest['files']):>3} files, {sum(file['rows'] or 0 for file in manifest['files']):>4} rows")

# %% [markdown]
# ## pyarrow: one table
#
# Tables are in shards, `NAME-00000.parquet` and so on; names that end in `_K` are lists with one element per perspective.

# %%
shards = sorted(folders["training"].glob("steps-*.parquet"))
steps = pq.read_table(shards, columns=["step", "loss_sft", "alpha_K"])
print(steps.schema.field("alpha_K").type, steps.num_rows, "steps")
summary = json.loads((folders["sampling"] / "manifest.json").read_text())["summary"]
weights = dict(zip(summary["outcomes"], steps["alpha_K"][-1].as_py(), strict=True))
print("weights at the last step:", {name: round(weight, 2) for name, weight in weights.items() if weight})

# %% [markdown]
# ## DuckDB: questions over several artifacts
#
# How often is each perspective right, how long are its rationales, and how hard does the base student find them?

# %%
samples, rationales = str(folders["sampling"] / "samples-*.parquet"), str(folders["synthesis"] / "rationales-*.parquet")
perspectives = duckdb.sql(
    """
    SELECT perspective, count(*) AS samples, avg((outcome = 'correct')::int) AS share_right,
           round(avg(completion_tokens)) AS tokens, round(avg(base_loss), 2) AS base_loss
    FROM read_parquet($samples) AS samples LEFT JOIN read_parquet($rationales) AS rationales USING (question_id, perspective)
    GROUP BY perspective ORDER BY base_loss
    """,
    params={"samples": samples, "rationales": rationales},
)
print(perspectives)

# %% [markdown]
# ## What did the student learn, item by item?
#
# Base and student answered the same questions, so the four cells below are McNemar's table.

# %%
answers = {stage: str(folders[stage] / "items-*.parquet") for stage in ("references", "evaluation")}
table = duckdb.sql(
    """
    SELECT base.set, base.outcome = 'correct' AS base_right, student.outcome = 'correct' AS student_right, count(*) AS items
    FROM read_parquet($references) AS base JOIN read_parquet($evaluation) AS student USING (set, question_id)
    WHERE base.model = 'base' AND student.model = 'student' GROUP BY ALL ORDER BY ALL
    """,
    params=answers,
)
print(table)
