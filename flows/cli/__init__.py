"""The command line `mind`: one file per group of commands, assembled in `app.py`."""
