"""The process of the sampling stage: `python -m stages.sampling --config FILE`."""

from stages.core.process import main

main("sampling")
