"""`python -m xr_pytables`: the command line of `cli`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="python -m xr_pytables")
