"""The evaluation stage: the student's answers, compared with those of base and teacher on identical items."""
