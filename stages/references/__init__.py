"""The references stage: base student and teacher answer every evaluation item once, for all students."""
