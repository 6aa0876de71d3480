"""The process of the report stage: `python -m stages.report --config FILE`."""

from stages.core.process import main

main("report")
