"""The process of the evaluation stage: `python -m stages.evaluation --config FILE`."""

from stages.core.process import main

main("evaluation")
