"""What every answer type needs from a text: its characters, its LaTeX, its sentences, and where it states an answer."""
