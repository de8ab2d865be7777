"""`python -m app` and the installed command `gologin-automation`."""

import gc
import sys


def main() -> None:
    """Run the command line; an interrupt ends it with exit code 130, also during the imports."""
    try:
        gc.disable()  # collections take a sixth of the imports' time, and find nothing: what is imported stays
        from app.cli import main as run  # noqa: PLC0415  # takes a second and more
        from app.utils.processes import collect_seldom  # noqa: PLC0415

        collect_seldom()
        gc.enable()
        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
