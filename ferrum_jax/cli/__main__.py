"""`python -m ferrum_jax.cli`."""

import sys

from ferrum_jax.cli.main import main

sys.exit(main())
