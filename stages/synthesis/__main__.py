"""The process of the synthesis stage: `python -m stages.synthesis --config FILE`."""

from stages.core.process import main

main("synthesis")
