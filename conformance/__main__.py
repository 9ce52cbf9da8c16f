"""`python -m tal_conformance COMMAND`, the same as `tal-conformance COMMAND`."""

import sys

from tal_conformance.commands import main

if __name__ == "__main__":
    sys.exit(main())
