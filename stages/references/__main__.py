"""The process of the references stage: `python -m stages.references --config FILE`."""

from stages.core.process import main

main("references")
