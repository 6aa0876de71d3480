"""The process of the training stage: `python -m stages.training --config FILE`."""

from stages.core.process import main

main("training")
