"""`python -m app` and the installed command `gologin-automation`."""

import sys


def main() -> None:
    """Run the command line; an interrupt ends it with exit code 130, also during the imports."""
    try:
        from app.cli import main as run  # noqa: PLC0415  # takes a second and more

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
