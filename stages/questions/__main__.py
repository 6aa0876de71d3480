"""The process of the questions stage: `python -m stages.questions --config FILE`."""

from stages.core.process import main

main("questions")
