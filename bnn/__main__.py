"""`python -m bnn`, and what torchrun starts."""

import sys

from bnn.cli import main

sys.exit(main())
