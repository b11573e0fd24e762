"""`python -m fxjax`, the same as the command `fxjax`."""

from fxjax.cli import main

if __name__ == "__main__":
    main()
