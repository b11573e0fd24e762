"""The project's commands: `python -m experiments.<name> --help`."""
