"""`python -m normc` is the command `normc`."""

from normc.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
