"""What every answer type needs from a text: its characters, LaTeX and number words, its sentences, and where it states an answer."""
