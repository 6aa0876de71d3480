"""What every answer type needs from a text: its characters, numbers, turns, thoughts and sentences, and where it states an answer."""
