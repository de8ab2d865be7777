"""`python -m app`."""

import sys

try:
    from app.cli import main  # which takes two seconds

    main()
except KeyboardInterrupt:
    sys.exit(130)
